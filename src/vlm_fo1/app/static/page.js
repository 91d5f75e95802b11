// Lights up everything that belongs to the same regions as the part that is hovered or focused.
(() => {
  const numbers = (node) => (node.dataset.regions || "").split(" ").filter(Boolean);
  let lit = null;
  const light = (node) => {
    const scope = node ? node.closest(".fo1-scope") : null;
    if (lit && lit !== scope) {
      lit.classList.remove("fo1-lit");
      lit.querySelectorAll(".fo1-on").forEach((other) => other.classList.remove("fo1-on"));
    }
    lit = scope;
    if (!scope) return;
    const wanted = new Set(numbers(node));
    scope.classList.toggle("fo1-lit", wanted.size > 0);
    scope.querySelectorAll("[data-regions]").forEach((other) => {
      other.classList.toggle("fo1-on", numbers(other).some((number) => wanted.has(number)));
    });
  };
  const under = (event) =>
    event.target instanceof Element ? event.target.closest("[data-regions]") : null;
  const leave = () => light(document.activeElement?.closest?.("[data-regions]") ?? null);
  document.addEventListener("mouseover", (event) => {
    const node = under(event);
    if (node) light(node);
    else if (lit) leave();
  });
  document.addEventListener("focusin", (event) => light(under(event)));
  document.addEventListener("focusout", () => light(null));
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && lit) light(null);
  });
})();

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
// Numbers the boxes on the image as the answer will, drawn ones last, and writes them down.
(() => {
  let held = false; // while a button is down a box is being drawn, and must be left alone
  document.addEventListener("pointerdown", () => { held = true; }, true);
  for (const kind of ["pointerup", "pointercancel"]) {
    document.addEventListener(kind, () => { held = false; }, true);
  }
  const number = (box) => (/^\d+$/.test(box.label) ? Number(box.label) : Infinity);
  const pixels = (box, side) => Math.round(box[side] / (box.scaleFactor || 1));
  window.fo1Boxes = (image) => {
    if (held) return [undefined, undefined];
    const boxes = image?.boxes ?? [];
    const order = boxes.map((_, index) => index);
    order.sort((a, b) => {
      const [first, second] = [number(boxes[a]), number(boxes[b])];
      return first === second ? a - b : first - second;
    });
    const sides = ["xmin", "ymin", "xmax", "ymax"];
    const rows = order.map((index) => sides.map((side) => pixels(boxes[index], side)));
    const labels = new Map(order.map((index, place) => [index, String(place)]));
    const kept = boxes.every((box, index) => box.label === labels.get(index));
    const numbered = boxes.map((box, index) => ({
      ...box,
      label: labels.get(index),
      color: "rgb(0, 114, 178)",
    }));
    return [kept ? undefined : { ...image, boxes: numbered }, JSON.stringify(rows)];
  };
})();

// Brings the page to life.

/** Let the buttons above the bars put them in order. */
function startOrder(section) {
  const list = section.querySelector(".bars");
  const buttons = [...section.querySelectorAll("[data-order]")];
  const byName = (one, other) =>
    one.dataset.name.localeCompare(other.dataset.name, "en", { numeric: true });
  // An absent class has no IoU: it comes last.
  const iou = (item) => (item.dataset.iou === "" ? -1 : Number(item.dataset.iou));
  const orders = { name: byName, iou: (one, other) => iou(other) - iou(one) };
  for (const button of buttons) {
    button.addEventListener("click", () => {
      list.append(...[...list.children].sort(orders[button.dataset.order]));
      for (const other of buttons) other.setAttribute("aria-pressed", other === button);
    });
  }
}

startTheme();
const viewer = new Viewer();
for (const run of document.querySelectorAll(".run")) {
  const data = readData(`${run.id}-data`);
  for (const section of run.querySelectorAll(".classes")) startOrder(section);
  for (const section of run.querySelectorAll(".confusion")) new HeatMap(section, data);
  new Gallery(run, data, viewer);
}

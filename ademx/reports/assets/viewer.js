// The large view of an image: its panels side by side, enlarged and moved together.

const MAX_ZOOM = 24;
const ZOOM_STEP = 1.5;
const PAN_STEP = 60; // CSS pixels

/** Ports onto the same place of several layers of an image. */
class LinkedPorts {
  /** `onPoint` is told the pixel under the pointer, [column, row], or null. */
  constructor(onPoint) {
    this.onPoint = onPoint;
    this.ports = [];
    this.pointers = new Map(); // those that are down, with their places
    this.reset();
  }

  /** Take over new ports, onto an image of [width, height]. */
  attach(ports, size) {
    this.ports = ports;
    this.size = size;
    this.pointers.clear();
    for (const port of ports) {
      port.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
      port.addEventListener("pointerdown", (event) => this.down(event));
      port.addEventListener("pointermove", (event) => this.move(event));
      port.addEventListener("pointerup", (event) => this.pointers.delete(event.pointerId));
      port.addEventListener("pointercancel", (event) => this.pointers.delete(event.pointerId));
      port.addEventListener("pointerleave", () => this.point(null));
    }
    this.reset();
  }

  reset() {
    [this.scale, this.x, this.y] = [1, 0, 0];
    this.apply();
  }

  /** Enlarge by a factor; what is at a place, by default the middle, stays there. */
  zoom(factor, place = this.extent().map((length) => length / 2)) {
    const scale = clamp(this.scale * factor, 1, MAX_ZOOM);
    const ratio = scale / this.scale;
    this.x = place[0] - (place[0] - this.x) * ratio;
    this.y = place[1] - (place[1] - this.y) * ratio;
    this.scale = scale;
    this.apply();
  }

  pan(right, down) {
    this.x += right;
    this.y += down;
    this.apply();
  }

  /** Return the width and height of every port. */
  extent() {
    return [this.ports[0].clientWidth, this.ports[0].clientHeight];
  }

  apply() {
    if (!this.ports.length) return;
    const [width, height] = this.extent();
    this.x = clamp(this.x, width * (1 - this.scale), 0);
    this.y = clamp(this.y, height * (1 - this.scale), 0);
    for (const port of this.ports) {
      port.firstChild.style.transform =
        `translate(${this.x}px, ${this.y}px) scale(${this.scale})`;
      port.classList.toggle("zoomed", this.scale > 1);
    }
  }

  wheel(event) {
    if (event.deltaY > 0 && this.scale === 1) return; // nothing to make smaller: scroll
    event.preventDefault();
    this.zoom(2 ** (-event.deltaY / 300), placeIn(event));
  }

  down(event) {
    event.currentTarget.setPointerCapture(event.pointerId);
    this.pointers.set(event.pointerId, placeIn(event));
    this.point(placeIn(event));
  }

  move(event) {
    const place = placeIn(event);
    const before = this.pointers.get(event.pointerId);
    if (before) {
      const other = [...this.pointers].find(([id]) => id !== event.pointerId)?.[1];
      this.pointers.set(event.pointerId, place);
      if (other) {
        this.zoom(distance(place, other) / Math.max(1, distance(before, other)), other);
      } else {
        this.pan(place[0] - before[0], place[1] - before[1]);
      }
    }
    this.point(place);
  }

  /** Mark a place in every port and tell which pixel it is. */
  point(place) {
    for (const port of this.ports) {
      const spot = port.querySelector(".spot");
      spot.hidden = !place;
      if (place) [spot.style.left, spot.style.top] = place.map((length) => `${length}px`);
    }
    this.onPoint(place && this.pixelAt(place));
  }

  /** Return the pixel at a place, [column, row], or null beside the image. */
  pixelAt([left, top]) {
    const [width, height] = this.extent();
    const fit = Math.min(width / this.size[0], height / this.size[1]);
    const column = ((left - this.x) / this.scale - (width - this.size[0] * fit) / 2) / fit;
    const row = ((top - this.y) / this.scale - (height - this.size[1] * fit) / 2) / fit;
    const isInside = column >= 0 && row >= 0 && column < this.size[0] && row < this.size[1];
    return isInside ? [Math.floor(column), Math.floor(row)] : null;
  }
}

/** Return where an event is in its port, [left, top]. */
function placeIn(event) {
  const box = event.currentTarget.getBoundingClientRect();
  return [event.clientX - box.left, event.clientY - box.top];
}

function distance(one, other) {
  return Math.hypot(one[0] - other[0], one[1] - other[1]);
}

class Viewer {
  constructor() {
    this.dialog = document.getElementById("viewer");
    this.panels = this.dialog.querySelector(".viewer-panels");
    this.legend = this.dialog.querySelector(".viewer-legend");
    this.opacity = this.dialog.querySelector("input");
    this.ports = new LinkedPorts((pixel) => this.name(pixel));
    for (const button of this.dialog.querySelectorAll("[data-zoom]")) {
      button.addEventListener("click", () => this.zoom(button.dataset.zoom));
    }
    for (const button of this.dialog.querySelectorAll("[data-step]")) {
      button.addEventListener("click", () => this.step(Number(button.dataset.step)));
    }
    document.getElementById("viewer-close").addEventListener("click", () => this.dialog.close());
    this.opacity.addEventListener("input", () => this.fade());
    this.dialog.addEventListener("keydown", (event) => this.press(event));
    this.dialog.addEventListener("close", () => this.gallery.focus(this.image));
    window.addEventListener("resize", () => this.ports.reset());
  }

  open(gallery, image) {
    this.gallery = gallery;
    this.dialog.showModal();
    // Not by "autofocus": pages whose focus is elsewhere when they load complain of it.
    this.dialog.querySelector('[data-step="1"]').focus();
    this.show(image);
    this.dialog.scrollTop = 0;
  }

  /** Show the image that lies some steps on in the gallery, round its ends. */
  step(number) {
    const { images } = this.gallery;
    const index = images.indexOf(this.image) + number;
    this.show(images[(index + images.length) % images.length]);
  }

  show(image) {
    const { data, images, words } = this.gallery;
    const picture = readData(image.key);
    const names = panelsOf(picture);
    this.image = image;
    this.maps = {}; // contexts of the maps, to read their pixels from
    document.getElementById("viewer-title").textContent = image.name;
    document.getElementById("viewer-position").textContent =
      [`${images.indexOf(image) + 1} of ${images.length}`, words.score(image, data)]
        .filter(Boolean).join(" · ");
    this.opacity.parentElement.hidden = names.length === 1;
    this.panels.className = `viewer-panels ${{ 1: "one", 2: "two" }[names.length] || ""}`;
    this.panels.replaceChildren(...names.map((name) => this.figure(picture, name)));
    this.legend.replaceChildren(...words.legend(image, data));
    this.fade();
    const ports = [...this.panels.querySelectorAll(".port")];
    this.ports.attach(ports, [picture.width, picture.height]);
  }

  figure(picture, panel) {
    const sheet = make("div", { className: "sheet" },
      ...makeLayers(picture, panel, { withImage: true }));
    const spot = make("span", { className: "spot", hidden: true });
    const port = make("div", { className: "port" }, sheet, spot);
    // On a phone this decides the height; elsewhere all panels share the screen.
    port.style.setProperty("--aspect", `${picture.width} / ${picture.height}`);
    return make("figure", { "data-panel": panel },
      make("figcaption", {}, panel, make("b")), port);
  }

  zoom(how) {
    if (how === "reset") this.ports.reset();
    else this.ports.zoom(how === "in" ? ZOOM_STEP : 1 / ZOOM_STEP);
  }

  /** Let the image shine through the maps. */
  fade() {
    for (const layer of this.panels.querySelectorAll("img.map")) {
      layer.style.opacity = this.opacity.value / 100;
    }
  }

  press(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return; // the browser's own
    const sides = { ArrowLeft: [1, 0], ArrowRight: [-1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
    const side = sides[event.key];
    if (side && event.shiftKey) {
      this.ports.pan(...side.map((step) => step * PAN_STEP));
    } else if (side?.[0] && event.target !== this.opacity) {
      this.step(-side[0]);
    } else if (["+", "=", "-", "0"].includes(event.key)) {
      this.zoom({ "-": "out", 0: "reset" }[event.key] || "in");
    } else {
      return;
    }
    event.preventDefault();
  }

  /** Write beside the names of the maps which classes a pixel has. */
  name(pixel) {
    for (const panel of ["truth", "prediction"]) {
      const figure = this.panels.querySelector(`[data-panel="${panel}"]`);
      if (!figure) continue;
      const text = pixel ? this.classAt(panel, pixel) : "";
      figure.querySelector("b").textContent = text && `: ${text}`;
    }
  }

  /** Return the name of the class whose colour a pixel of a map has. */
  classAt(panel, [column, row]) {
    const map = this.panels.querySelector(`[data-panel="${panel}"] img.map`);
    if (!map.complete) return "";
    this.maps[panel] ||= drawn(map);
    const pixel = this.maps[panel].getImageData(column, row, 1, 1).data;
    const colour = "#" + [...pixel].slice(0, 3).map((value) =>
      value.toString(16).padStart(2, "0")).join("");
    // Classes may share a colour: those that are in the image are more likely meant.
    const { classes } = this.gallery.data;
    const here = this.image.classes.map(([number]) => classes[number]);
    const found = [here, classes].map((list) => list.filter((entry) => entry.colour === colour));
    const names = (found[0].length ? found[0] : found[1]).map((entry) => entry.name);
    return names.join(" or ") || "void";
  }
}

/** Return a context that an image is drawn in at its own size. */
function drawn(image) {
  const canvas = make("canvas", { width: image.naturalWidth, height: image.naturalHeight });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(image, 0, 0);
  return context;
}

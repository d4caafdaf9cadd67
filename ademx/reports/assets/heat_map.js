// The confusion matrix as a heat map, read by pointer, finger or arrow keys.

const FONT = "12px system-ui, sans-serif";

/** Return 256 colours of evenly changing lightness, from nearly the page's own on. */
function makeRamp(dark) {
  return Array.from({ length: 256 }, (_, index) => {
    const t = index / 255;
    const lightness = dark ? 0.25 + 0.68 * t : 0.965 - 0.68 * t;
    // As much colour as the screen has at both ends, and no less than grey can be told from.
    const chroma = 0.02 + 0.13 * Math.sin(Math.PI * t * (dark ? 0.95 : 0.75));
    return `oklch(${lightness} ${chroma} ${dark ? 250 - 20 * t : 255})`;
  });
}

class HeatMap {
  constructor(section, data) {
    this.names = data.classes.map((entry) => entry.name);
    this.counts = data.confusion;
    this.totals = this.counts.map((row) => row.reduce((sum, count) => sum + count, 0));
    this.port = section.querySelector(".map");
    this.canvas = this.port.querySelector("canvas");
    this.mark = this.port.querySelector("span");
    this.rampCanvas = section.querySelector(".ramp canvas");
    this.readout = section.querySelector(".readout");
    this.cell = null; // [truth, predicted]
    this.isLarge = false;
    this.canvas.addEventListener("pointermove", (event) => this.point(event));
    this.canvas.addEventListener("pointerdown", (event) => this.point(event));
    this.canvas.addEventListener("pointerleave", (event) => {
      if (event.pointerType === "mouse") this.choose(null);
    });
    this.canvas.addEventListener("focus", () => this.choose(this.cell || [0, 0]));
    this.canvas.addEventListener("blur", () => this.choose(null));
    this.canvas.addEventListener("keydown", (event) => this.press(event));
    for (const label of section.querySelectorAll(".ramp span")) {
      label.style.left = `${10 * Math.sqrt(parseInt(label.textContent))}%`;
    }
    const larger = section.querySelector(".larger");
    larger.addEventListener("click", () => {
      this.isLarge = !this.isLarge;
      larger.setAttribute("aria-pressed", this.isLarge);
      this.draw();
    });
    document.addEventListener("themechange", () => this.draw());
    new ResizeObserver(() => this.resize()).observe(this.port);
    this.draw();
  }

  share(truth, predicted) {
    return this.counts[truth][predicted] / this.totals[truth];
  }

  /** Draw again, but only for another width: what is drawn changes the height. */
  resize() {
    if (this.port.clientWidth !== this.width) this.draw();
  }

  /** Set the side of a cell and the margin for the names, which small cells have none of. */
  measure(context) {
    this.width = this.port.clientWidth;
    const number = this.names.length;
    context.font = FONT;
    const longest = Math.max(...this.names.map((name) => context.measureText(name).width));
    const margin = Math.ceil(Math.min(150, longest) + 10);
    const named = Math.floor((this.width - margin) / number);
    if (this.isLarge || named >= 12) {
      this.side = clamp(named, this.isLarge ? 18 : 12, this.isLarge ? 36 : 28);
      this.margin = margin;
    } else {
      this.side = Math.max(1, Math.floor((this.width - 20) / number));
      this.margin = 20;
    }
  }

  draw() {
    const context = this.canvas.getContext("2d");
    this.measure(context);
    const size = this.margin + this.side * this.names.length;
    // Sharp on dense screens, within what browsers allow a canvas.
    const density = Math.min(window.devicePixelRatio || 1, 4096 / size);
    this.canvas.width = this.canvas.height = Math.round(size * density);
    this.canvas.style.width = this.canvas.style.height = `${size}px`;
    this.mark.style.width = this.mark.style.height = `${this.side - 1}px`;
    context.scale(density, density);
    context.fillStyle = getComputedStyle(this.canvas).color;
    context.font = FONT;
    context.textBaseline = "middle";
    if (this.margin > 20) this.drawNames(context);
    else this.drawAxes(context);
    this.drawCells(context);
    this.show();
  }

  drawNames(context) {
    const end = this.margin - 6;
    this.names.forEach((name, index) => {
      const middle = this.margin + (index + 0.5) * this.side;
      const text = shortened(context, name, this.margin - 8);
      write(context, text, [end, middle], { align: "right" });
      write(context, text, [middle, end], { align: "left", angle: -Math.PI / 2 });
    });
  }

  drawAxes(context) {
    write(context, "predicted →", [this.margin, 9], { align: "left" });
    write(context, "← truth", [9, this.margin], { align: "right", angle: -Math.PI / 2 });
  }

  drawCells(context) {
    const ramp = makeRamp(isDark());
    const gap = this.side >= 10 ? 1 : 0;
    const number = this.names.length;
    for (let truth = 0; truth < number; truth++) {
      if (!this.totals[truth]) continue; // a class without truth has no row
      for (let predicted = 0; predicted < number; predicted++) {
        context.fillStyle = ramp[Math.round(255 * Math.sqrt(this.share(truth, predicted)))];
        context.fillRect(...this.corner(truth, predicted), this.side - gap, this.side - gap);
      }
    }
    const legend = this.rampCanvas.getContext("2d");
    ramp.forEach((colour, index) => {
      legend.fillStyle = colour;
      legend.fillRect(index, 0, 1, 1);
    });
  }

  /** Return left and top of a cell. */
  corner(truth, predicted) {
    return [this.margin + predicted * this.side, this.margin + truth * this.side];
  }

  point(event) {
    const box = this.canvas.getBoundingClientRect();
    const at = (position) => Math.floor((position - this.margin) / this.side);
    const [truth, predicted] = [at(event.clientY - box.top), at(event.clientX - box.left)];
    const last = this.names.length - 1;
    const isInside = truth >= 0 && predicted >= 0 && truth <= last && predicted <= last;
    this.choose(isInside ? [truth, predicted] : null);
  }

  press(event) {
    const last = this.names.length - 1;
    const [truth, predicted] = this.cell || [0, 0];
    const moves = {
      ArrowUp: [truth - 1, predicted],
      ArrowDown: [truth + 1, predicted],
      ArrowLeft: [truth, predicted - 1],
      ArrowRight: [truth, predicted + 1],
      Home: [truth, 0],
      End: [truth, last],
    };
    const cell = moves[event.key];
    if (!cell) return;
    event.preventDefault();
    this.choose(cell.map((index) => clamp(index, 0, last)));
    this.mark.scrollIntoView({ block: "nearest", inline: "nearest" });
    this.placeReadout(); // which the map's scrolling moves
  }

  choose(cell) {
    this.cell = cell;
    this.show();
  }

  /** Mark the chosen cell, and say what is in it. */
  show() {
    this.readout.textContent = this.cell ? this.describe(...this.cell) : "";
    this.mark.hidden = !this.cell;
    if (!this.cell) return;
    const [left, top] = this.corner(...this.cell);
    Object.assign(this.mark.style, { left: `${left}px`, top: `${top}px` });
    this.placeReadout();
  }

  describe(truth, predicted) {
    const names = `truth: ${this.names[truth]}\npredicted: ${this.names[predicted]}\n`;
    if (!this.totals[truth]) return `${names}no pixel of the truth`;
    const share = (100 * this.share(truth, predicted)).toFixed(2);
    const count = this.counts[truth][predicted];
    return `${names}${share} % of the row, ${whole(count)} ${plural("pixel", count)}`;
  }

  placeReadout() {
    const [left, top] = this.corner(...this.cell);
    const frame = this.readout.offsetParent;
    const [width, height] = [this.readout.offsetWidth, this.readout.offsetHeight];
    const x = this.port.offsetLeft + left - this.port.scrollLeft + this.side + 8;
    const y = this.port.offsetTop + top - this.port.scrollTop;
    const isBelow = y - height - 8 < 0;
    this.readout.style.left = `${clamp(x, 0, frame.clientWidth - width)}px`;
    this.readout.style.top = `${isBelow ? y + this.side + 8 : y - height - 8}px`;
  }
}

/** Write a text of which one end is at a place, [left, top]. */
function write(context, text, place, { align, angle = 0 }) {
  context.save();
  context.translate(...place);
  context.rotate(angle);
  context.textAlign = align;
  context.fillText(text, 0, 0);
  context.restore();
}

/** Return a text, cut off so that it fits a width. */
function shortened(context, text, width) {
  if (context.measureText(text).width <= width) return text;
  let length = text.length;
  while (length > 1 && context.measureText(`${text.slice(0, length)}…`).width > width) length--;
  return `${text.slice(0, length)}…`;
}

// The cards of a run's images, and the choice by class.
//
// Each picture is in an element of its own, which is parsed when the picture is shown.

const PAGE_SIZE = 24; // cards that are added at a time
const MAX_CHIPS = 8; // classes named below a card

/** Return the images that lie on each other in a panel, from a picture's data. */
function makeLayers(picture, panel, { withImage }) {
  const layer = (key, className, alt) =>
    make("img", {
      src: picture[key],
      width: picture.width,
      height: picture.height,
      decoding: "async",
      className,
      alt,
    });
  if (panel === "image") return [layer("image", "", "image")];
  const below = panel === "error" ? [layer("image", "grey", "")] : [];
  if (withImage && panel !== "error") below.push(layer("image", "", ""));
  return [...below, layer(panel, "map pixels", panel)];
}

function panelsOf(picture) {
  return ["image", "truth", "prediction", "error"].filter((panel) => panel in picture);
}

/** What is written about an image, which differs by task. */
const WORDS = {
  segmentation: {
    order: "mean IoU",
    score: (image) => (image.score === null ? "" : `mean IoU ${percent(image.score)}`),
    chips: segmentationChips,
    legend: segmentationLegend,
  },
  classification: {
    order: "lead of the true class over the likeliest other",
    score: (image, data) =>
      image.truth === null
        ? "" : `true class ${data.classes[image.truth].name} ${percent(image.score)}`,
    chips: classificationChips,
    legend: classificationLegend,
  },
};

/** Return an image's classes, those with most pixels of truth and prediction first. */
function byPixels(image) {
  const pixels = ([, , truth, predicted]) => truth + predicted;
  return [...image.classes].sort((one, other) => pixels(other) - pixels(one));
}

function segmentationChips(image, data) {
  const chips = byPixels(image)
    .slice(0, MAX_CHIPS)
    .map(([number, iou]) => {
      const { name, colour } = data.classes[number];
      return make("li", {}, makeSwatch(colour), `${name} ${iou.toFixed(1)}`);
    });
  const more = image.classes.length - MAX_CHIPS;
  if (more > 0) chips.push(make("li", {}, `and ${more} more`));
  return chips;
}

function segmentationLegend(image, data) {
  const sum = (column) => image.classes.reduce((total, entry) => total + entry[column], 0);
  const totals = [sum(2), sum(3)];
  const rows = byPixels(image).map(([number, iou, ...pixels]) => {
    const { name, colour } = data.classes[number];
    const shares = pixels.map((count, index) => (100 * count) / Math.max(1, totals[index]));
    const cells = [iou, ...shares].map((value) =>
      make("td", { className: "number" }, value.toFixed(1)));
    return make("tr", {}, make("th", { scope: "row" }, makeSwatch(colour), name), ...cells);
  });
  if (!rows.length) return [];
  const head = ["Class", "IoU %", "truth %", "pred. %"].map((text) =>
    make("th", { scope: "col" }, text));
  return [
    make("table", {}, make("thead", {}, make("tr", {}, ...head)), make("tbody", {}, ...rows)),
    make("p", { className: "small" },
      "Truth and prediction: share of the labelled pixels. Error: red is wrong, hatched is void."),
  ];
}

function classificationChips(image, data) {
  return image.guesses.map(([number, probability]) => {
    const isTrue = number === image.truth;
    const isWrong = image.truth !== null && !isTrue && number === image.guesses[0][0];
    const mark = isTrue ? "✓ " : isWrong ? "✗ " : "";
    const text = `${mark}${data.classes[number].name} ${percent(probability)}`;
    return make("li", { className: isTrue ? "good" : isWrong ? "bad" : "" }, text);
  });
}

function classificationLegend(image, data) {
  return [
    make("h3", {}, "Five likeliest classes"),
    make("ol", { className: "chips" }, ...classificationChips(image, data)),
  ];
}

class Gallery {
  constructor(run, data, viewer) {
    this.run = run;
    this.data = data;
    this.viewer = viewer;
    this.words = WORDS[data.task];
    this.section = run.querySelector(".gallery");
    this.cards = this.section.querySelector(".cards");
    this.select = this.section.querySelector("select");
    this.all = this.section.querySelector(".all");
    if (!this.cards) return;
    this.cards.classList.toggle("photos", data.task === "classification");
    this.select?.addEventListener("change", () => this.filter(this.select.value));
    this.all?.addEventListener("click", () => {
      this.filter("");
      this.select.focus();
    });
    for (const button of run.querySelectorAll("button[data-class]")) {
      button.addEventListener("click", () => {
        const isOn = button.getAttribute("aria-pressed") === "true";
        this.filter(isOn ? "" : button.dataset.class);
        if (!isOn) this.section.scrollIntoView({ block: "start" });
      });
    }
    this.filter("");
  }

  /** Show the images with a class, "" for the worst and the best of all. */
  filter(number) {
    if (this.select) this.select.value = number;
    if (this.all) this.all.hidden = number === "";
    for (const button of this.run.querySelectorAll(".bar")) {
      button.setAttribute("aria-pressed", button.dataset.class === number);
    }
    this.groups = number === "" ? this.ends() : [this.ofClass(Number(number))];
    // A group's title goes with its first image.
    this.waiting = this.groups.flatMap(({ title, images }) =>
      images.map((image, index) => ({ image, title: index ? "" : title })));
    this.images = this.waiting.map(({ image }) => image);
    this.number = number;
    this.cards.replaceChildren();
    this.section.querySelector(".count").textContent = this.countText();
    this.addCards();
  }

  /** Return the worst and the best images, or what there is where nothing tells which they are. */
  ends() {
    const titles = { worst: "Worst", best: "Best", sample: "" };
    return Object.entries(titles).map(([group, title]) => ({
      title,
      images: this.data.images.filter((image) => image.group === group),
    }));
  }

  /** Return the images with a class, lowest IoU of it first, of equals the one with more of it. */
  ofClass(number) {
    const entry = (image) => image.classes.find((found) => found[0] === number);
    const images = this.data.images.filter(entry);
    if (this.data.task === "segmentation") {
      const pixels = (image) => entry(image)[2] + entry(image)[3];
      images.sort((one, other) =>
        entry(one)[1] - entry(other)[1] || pixels(other) - pixels(one));
    } else {
      images.sort((one, other) => one.lead - other.lead);
    }
    return { title: "", images };
  }

  countText() {
    const total = this.data.numTested;
    if (this.number === "") {
      const [worst, best] = this.groups.map((group) => group.images.length);
      if (!worst) return `${this.images.length} of ${total} ${plural("image", total)}.`;
      return `The ${worst} worst and ${best} best of ${total} by ${this.words.order}.`;
    }
    const { name } = this.data.classes[this.number];
    const inRun = this.data.numImages[this.number];
    const what = this.data.task === "segmentation"
      ? `with ${name}, lowest IoU of it first.`
      : `of ${name} or taken for it, surest mistakes first.`;
    return `${this.images.length} of the run’s ${inRun} ${plural("image", inRun)} ${what}`;
  }

  /** Add some of the cards that are not there yet, and a button for more if any are left. */
  addCards() {
    this.cards.querySelector(".more")?.remove();
    for (const { title, image } of this.waiting.splice(0, PAGE_SIZE)) {
      if (title) this.cards.append(make("h4", {}, title));
      this.cards.append(this.card(image));
    }
    if (!this.waiting.length) return;
    const onclick = () => this.focus(this.waiting[0].image);
    const text = `Show ${this.waiting.length} more`;
    this.cards.append(make("button", { type: "button", className: "more", onclick }, text));
  }

  card(image) {
    const picture = readData(image.key);
    const panels = panelsOf(picture).map((panel) =>
      make("span", { className: "panel" },
        make("span", { className: "stack" },
          ...makeLayers(picture, panel, { withImage: false })),
        make("span", { className: "panel-name" }, panel)));
    const button = make("button", {
      type: "button",
      className: "panels",
      "aria-label": `Enlarge ${image.name}`,
      onclick: () => this.viewer.open(this, image),
    }, ...panels);
    const entry = this.number === "" ? null : image.classes.find(
      (found) => found[0] === Number(this.number));
    const ofClass = entry && this.data.task === "segmentation"
      ? `${this.data.classes[this.number].name} ${percent(entry[1])} · ` : "";
    return make("article", { className: "card", "data-image": image.name },
      make("div", { className: "card-head" },
        make("h5", {}, image.name),
        make("span", { className: "card-score" },
          ofClass + this.words.score(image, this.data))),
      button,
      make("ul", { className: "chips" }, ...this.words.chips(image, this.data)));
  }

  /** Bring the keyboard to an image's card. */
  focus(image) {
    const index = this.images.indexOf(image);
    while (index >= this.images.length - this.waiting.length) this.addCards();
    this.cards.querySelectorAll(".panels")[index].focus();
  }
}

"use strict";
(() => {
const data = JSON.parse(document.getElementById("data").textContent);
const at = id => document.getElementById(id);
const names = Object.keys(data.datasets);
const number = new Intl.NumberFormat("en-GB");
const near1 = value => value.toLocaleString("en-GB", {maximumFractionDigits: 1}).replace("-", "−");
const fixed = (value, digits) => value.toLocaleString("en-GB", {minimumFractionDigits: digits, maximumFractionDigits: digits});

/* Elements. What is not an element becomes a text node: nothing is ever parsed as HTML. */
function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes))
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value === true ? "" : value);
  element.append(...children.flat(Infinity).filter(child => child !== null && child !== undefined && child !== false));
  return element;
}
const h = (tag, attributes = {}, ...children) => fill(document.createElement(tag), attributes, children);
const s = (tag, attributes = {}, ...children) =>
  fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);

/* Theme: the system's, until the button says otherwise. A page from disk may have no storage. */
const dark = matchMedia("(prefers-color-scheme: dark)");
const kept = {
  get() { try { return localStorage.getItem("theme"); } catch { return null; } },
  set(theme) { try { localStorage.setItem("theme", theme); } catch { /* it holds until the page is closed */ } },
};
let theme = kept.get();
function show() {
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
  at("theme").setAttribute("aria-pressed", String((theme || (dark.matches ? "dark" : "light")) === "dark"));
}
at("theme").addEventListener("click", () => {
  theme = at("theme").getAttribute("aria-pressed") === "true" ? "light" : "dark";
  kept.set(theme);
  show();
});
dark.addEventListener("change", show);
show();

/* Summary */
const sum = what => names.reduce((total, name) => total + what(data.datasets[name]), 0);
const plural = (count, word) => `${number.format(count)} ${word}${count === 1 ? "" : "s"}`;
at("name").textContent = data.name || "build";
document.title = `${data.name || "Build"}: build report`;
const most = names.map(name => data.datasets[name]).sort((a, b) => b.hours - a.hours)[0];
at("lead").textContent = names.length ? `${plural(sum(d => d.done), "row")} in ${plural(names.length, "dataset")}; the largest holds `
  + `${fixed(most.hours, 2)} hours of music from ${plural(most.source_videos, "source")}.` : "No datasets.";
function table(head, rows, kind = "") {
  return h("table", {class: `stack ${kind}`, role: "table"},
    h("thead", {role: "rowgroup"}, h("tr", {role: "row"}, head.map(([title, kind]) => h("th", {scope: "col", role: "columnheader", class: kind}, title)))),
    h("tbody", {role: "rowgroup"}, rows.map(([first, ...cells]) => h("tr", {role: "row"},
      h("th", {scope: "row", role: "rowheader"}, first),
      cells.map((cell, place) => h("td", {role: "cell", class: `${head[place + 1][1] || ""}${cell === 0 ? " empty" : ""}`, "data-label": head[place + 1][0]},
        cell === 0 ? h("span", {class: "none"}, "0") : typeof cell === "number" ? number.format(cell) : cell))))));
}
function share(part, whole) {
  const bar = h("i");
  bar.style.width = `${whole ? 100 * part / whole : 0}%`;
  return h("span", {class: "share", "aria-hidden": "true"}, bar);
}
at("summary-table").append(table(
  [["Dataset", ""], ["Requested", "number"], ["Done", "number"], ["Lost", "number"], ["Hours", "number"], ["Sources", "number"], ["Train", "number"], ["Eval", "number"]],
  names.map(name => {
    const one = data.datasets[name], lost = one.requested - one.done;
    return [one.title, one.requested, h("span", {}, share(one.done, one.requested), number.format(one.done)), lost || "0", fixed(one.hours, 2),
      one.source_videos, one.splits.train || "0", one.splits.eval || "0"];
  })));
const made = data.made, who = made.captioners;
const about = [["Source", made.source], ["Splits by source", made.assignment], ["Seed", String(made.seed)], ["Captions of music", who.music],
  ["Captions of pictures", who.image === who.video ? who.image : `${who.image}; ${who.video}`], ["Instructions", who.instruct],
  made.edits && names.includes("muedit") && ["Edits of a clip", `tempo ${made.edits.tempo}, pitch ${made.edits.pitch}`],
  made.tagger && ["Tagger", made.tagger.join(" at ")], made.descriptions && ["Descriptions", made.descriptions]].filter(Boolean);
at("made").append(...about.map(([title, text]) => h("div", {}, h("dt", {}, title), h("dd", {}, text))));

/* Losses */
const reasons = Object.keys(data.reasons).filter(reason => names.some(name => data.datasets[name].lost[reason]));
const worst = reason => sum(d => d.lost[reason] || 0);
reasons.sort((a, b) => worst(b) - worst(a) || a.localeCompare(b));
at("lost-table").append(reasons.length ? table(
  [["Reason", ""], ["Meaning", "meaning"], ...names.map(name => [data.datasets[name].title, "number"])],
  reasons.map(reason => [
    h("span", {class: "reason"}, reason), data.reasons[reason][0] + (data.reasons[reason][1] ? "; asked again next time" : ""),
    ...names.map(name => data.datasets[name].lost[reason] || 0)]), "losses") : h("p", {class: "lead"}, "Nothing was lost."));

/* Buttons of which one is pressed */
function choice(label, entries, pressed, chosen) {
  const buttons = entries.map(([value, text, count]) => h("button", {type: "button", "data-value": value, "aria-pressed": String(value === pressed),
    onclick: event => {
      for (const other of buttons) other.setAttribute("aria-pressed", String(other === event.currentTarget));
      chosen(value);
    }}, text, count === undefined ? null : h("small", {}, number.format(count))));
  return h("fieldset", {class: "choice"}, h("legend", {class: "hidden"}, label), buttons);
}

/* Plots */
const WIDE = 340, HIGH = 120, FOOT = 20;
function drawn(plot) {
  const top = Math.max(...plot.bars.map(([, count]) => count), 1), step = WIDE / plot.bars.length;
  const gap = Math.min(step * 0.18, 6), thick = Math.min(step - gap, 44), halves = plot.halves ? plot.bars.length / 2 : 0;
  const spread = plot.spread, unit = plot.unit ? ` ${plot.unit}` : "";
  const text = spread ? `clips: median ${near1(spread.median)}${unit}, 90 % from ${near1(spread.p5)} to ${near1(spread.p95)}` : plural(plot.bars.reduce((total, [, count]) => total + count, 0), plot.of);
  const svg = s("svg", {viewBox: `0 0 ${WIDE} ${HIGH + FOOT + (halves ? 14 : 0)}`, role: "img", "aria-label": `${plot.title}: ${plot.bars.filter(([, count]) => count).map(([label, count]) => `${label} ${count}`).join(", ")}`},
    plot.bars.map(([label, count, tick], place) => {
      const middle = (place + 0.5) * step, high = count / top * (HIGH - 14);
      const shift = halves && place >= halves ? 4 : halves ? -4 : 0;
      return [count ? s("rect", {class: "bar", x: middle - thick / 2 + shift, y: HIGH - high, width: thick, height: high, rx: Math.min(1.5, thick / 4)},
        s("title", {}, `${label}: ${number.format(count)}`)) : null,
      count === top && plot.bars.findIndex(bar => bar[1] === top) === place ? s("text", {x: middle + shift, y: HIGH - high - 4, "text-anchor": "middle"}, number.format(count)) : null,
      tick ? s("text", {x: plot.edges ? middle - step / 2 : middle + shift, y: HIGH + 14, "text-anchor": "middle"}, tick.replace("-", "−")) : null];
    }),
    s("line", {class: "axis", x1: 0, x2: WIDE, y1: HIGH + 0.5, y2: HIGH + 0.5}),
    halves ? plot.halves.map((half, place) => s("text", {x: (place + 0.5) * WIDE / 2, y: HIGH + 30, "text-anchor": "middle"}, half)) : []);
  return h("figure", {}, h("h3", {}, plot.title), h("figcaption", {}, text), svg);
}
function checks(facets) {
  return h("figure", {}, h("h3", {}, "Captions against measurements"), h("figcaption", {}, "of those that speak of it and could be judged"),
    h("div", {class: "meter"}, facets.map(([facet, agree, against]) => [h("span", {}, facet), share(agree, agree + against),
      h("span", {}, `${number.format(agree)} of ${number.format(agree + against)} agree`)])));
}
function plots(name) {
  const one = data.datasets[name];
  at("plots-shown").replaceChildren(...one.plots.map(drawn), ...(one.agreement.length ? [checks(one.agreement)] : []));
}
if (names.length) {
  at("plots-choice").append(choice("Dataset of the plots", names.map(name => [name, data.datasets[name].title]), names[0], plots),
    h("p", {class: "count"}, `Bars count rows, of keys clips.${names.includes("muedit") ? " Of MUEdit they tell the sources." : ""}`));
  plots(names[0]);
}

/* Media: decoded when it is first wanted. */
const urls = new Map();
function url(place) {
  if (!urls.has(place)) {
    const bytes = Uint8Array.from(atob(at(`media-${place}`).textContent), letter => letter.charCodeAt(0));
    urls.set(place, URL.createObjectURL(new Blob([bytes], {type: data.media[place].type})));
  }
  return urls.get(place);
}
/* Set once: an address that is set again, though the same, is loaded again. */
const fetched = element => { if (!element.src) element.src = url(Number(element.dataset.media)); };
const seconds = value => `${Math.floor(value / 60)}:${String(Math.floor(value % 60)).padStart(2, "0")}`;
const icon = playing => s("svg", {viewBox: "0 0 12 12", "aria-hidden": "true"},
  s("path", {d: playing ? "M2 1h3v10H2zM7 1h3v10H7z" : "M2.5 .8 11 6 2.5 11.2z"}));
let sounding = null;
/* To be paused before it began is no error. */
const played = medium => medium.play().catch(error => { if (error.name !== "AbortError") throw error; });
function player(place, label, film) {
  const known = data.media[place];
  if (known.lost) return h("p", {class: "lost"}, `No sound: ${known.lost}`);
  const loudest = Math.max(...known.peaks, 1), wide = known.peaks.length * 3;
  const line = known.peaks.map((peak, index) => {
    const high = Math.max(1, 23 * peak / loudest);
    return `M${index * 3 + 1.5} ${24 - high}V${24 + high}`;
  });
  const before = s("path", {d: line.join("")}), gone = s("path", {class: "gone"});
  const audio = h("audio", {preload: "none"});
  const position = h("input", {type: "range", min: 0, max: known.seconds, step: 0.1, value: 0, "aria-label": `Position in ${label}`,
    oninput: () => { load(); audio.currentTime = Number(position.value); moved(); }});
  const time = h("span", {class: "time"});
  const button = h("button", {type: "button", class: "play", onclick: () => {
    load();
    if (audio.paused) played(audio); else audio.pause();
  }});
  function load() {
    if (audio.src) return;
    audio.src = url(place);
    if (film) fetched(film);
  }
  function moved() {
    const now = audio.currentTime;
    gone.setAttribute("d", line.slice(0, Math.round(line.length * now / known.seconds)).join(""));
    if (document.activeElement !== position || !audio.paused) position.value = now;
    position.setAttribute("aria-valuetext", `${seconds(now)} of ${seconds(known.seconds)}`);
    time.textContent = `${seconds(now)} / ${seconds(known.seconds)}`;
    if (film && Math.abs(film.currentTime - now) > 0.25 && !film.ended) film.currentTime = now;
  }
  function state() {
    button.replaceChildren(icon(!audio.paused));
    button.setAttribute("aria-label", `${audio.paused ? "Play" : "Pause"} ${label}`);
  }
  let frame = 0;
  const follow = () => { moved(); frame = audio.paused ? 0 : requestAnimationFrame(follow); };
  audio.addEventListener("play", () => {
    if (sounding && sounding !== audio) sounding.pause();
    sounding = audio;
    if (film) { film.currentTime = audio.currentTime; played(film); }
    state();
    if (!frame) follow();
  });
  audio.addEventListener("pause", () => { if (film) film.pause(); state(); moved(); });
  audio.addEventListener("seeked", moved);
  state();
  moved();
  return h("div", {class: "player"}, button,
    h("div", {class: "wave"}, s("svg", {viewBox: `0 0 ${wide} 48`, preserveAspectRatio: "none", "aria-hidden": "true"}, before, gone), position), time, audio);
}

/* A row */
const tempoOf = side => side.tempo === null ? null : Math.round(side.tempo);
const facts = (side, place) => h("div", {class: "facts"}, [side.tempo !== null && `${tempoOf(side)} BPM`, side.key,
  side.loudness !== null && `${fixed(side.loudness, 1).replace("-", "−")} LUFS`, side.duration !== null && `${fixed(side.duration, 1)} s`
  + (side.duration > data.media[place].seconds + 1 ? `, the first ${seconds(data.media[place].seconds)} here` : "")]
  .filter(Boolean).map(text => h("span", {}, text)));
function fine(side) {
  const against = Object.keys(side.checks).filter(name => side.checks[name] !== "agrees"), good = Object.keys(side.checks).filter(name => side.checks[name] === "agrees");
  return h("p", {class: "fine"}, `Caption: ${side.captioner}`, good.length ? `; agrees in ${good.join(", ")}` : "",
    against.length ? h("span", {class: "against"}, `; contradicts in ${against.join(", ")}`) : null);
}
function side(part, place, title, label, film) {
  return h("div", {class: "side"}, h("div", {class: "heard"}, title ? h("p", {class: "over"}, title) : null, player(place, label, film), facts(part, place)),
    h("div", {}, part.caption ? h("p", {class: "caption"}, part.caption) : null, part.captioner ? fine(part) : null));
}
function changed(row) {
  const amount = row.edit === "tempo" ? `tempo × ${row.amount}` : row.edit === "pitch" ? `pitch ${row.amount > 0 ? "+" : "−"}${Math.abs(row.amount)}` : "pair";
  const more = row.edit === "pitch" ? (Math.abs(row.amount) === 1 ? "semitone" : "semitones") : row.distance !== null ? `distance ${fixed(row.distance, 2)}` : row.edit === "tempo" ? "same pitch" : "";
  return h("p", {class: "change"}, h("span", {class: "arrow", "aria-hidden": "true"}, "→"), h("b", {}, amount), more);
}
function turn([from, text]) {
  return h("li", {class: from}, h("span", {}, from === "human" ? "Human" : "Model"), h("p", {}, text));
}
const questions = count => `${count} more ${count === 1 ? "question" : "questions"}`;
function card(row) {
  const {audio, target_audio: target, image, video} = row.media;
  const shown = image ?? video, bad = shown !== undefined && data.media[shown].lost;
  const film = video === undefined || bad ? null : h("video", {muted: true, playsinline: true, "data-media": video, preload: "auto", tabindex: -1, "aria-label": row.seen || "film"});
  if (film) film.muted = true;
  const still = image === undefined || bad ? null : h("img", {alt: row.seen || "frame", "data-media": image});
  const picture = shown === undefined ? null : h("div", {class: "picture"}, bad ? h("p", {class: "lost"}, `No picture: ${bad}`) : film || still,
    row.seen ? h("p", {class: "fine"}, row.seen) : null);
  const sides = row.target ? [side(row.source, audio, "Source", `${row.id}, source`), changed(row), side(row.target, target, "Target", `${row.id}, target`)]
    : [picture, side(row.source, audio, null, row.id, film)];
  return h("article", {class: "card", "data-row": row.id, "data-dataset": row.dataset},
    h("div", {class: "head"}, h("h4", {}, row.id), h("span", {class: "split"}, row.split)),
    h("div", {class: `body${row.target ? " two" : picture ? " seen" : " one"}`}, sides),
    row.description ? h("p", {class: "caption"}, row.description) : null,
    row.tags.length ? h("p", {class: "fine"}, row.tags.join(", ")) : null,
    row.turns.length ? h("div", {class: "said"}, h("ol", {}, row.turns.slice(0, 2).map(turn)),
      row.turns.length > 2 ? h("details", {}, h("summary", {}, questions((row.turns.length - 2) / 2)), h("ol", {}, row.turns.slice(2).map(turn))) : null,
      row.instructor ? h("p", {class: "fine"}, `Conversation: ${row.instructor}`) : null) : null);
}

/* Pictures are decoded when they come near. */
const near = new IntersectionObserver(found => {
  for (const {isIntersecting, target} of found)
    if (isIntersecting) { near.unobserve(target); fetched(target); }
}, {rootMargin: "600px"});

/* Filters */
const wanted = {dataset: "", split: "", key: "", edit: "", low: "", high: "", text: ""};
const words = row => [row.id, row.dataset, row.split, row.edit, row.seen, row.description, ...row.tags,
  ...[row.source, row.target].flatMap(part => part ? [part.source_id, part.caption, part.key] : []), ...row.turns.map(([, text]) => text)]
  .filter(Boolean).join("\n").toLowerCase();
const entries = data.rows.map(row => ({row, text: words(row), card: null}));
const sides = row => row.target ? [row.source, row.target] : [row.source];
function fits({row, text}) {
  const tempi = sides(row).map(tempoOf);
  return (!wanted.dataset || row.dataset === wanted.dataset) && (!wanted.split || row.split === wanted.split)
    && (!wanted.key || sides(row).some(part => part.key === wanted.key)) && (!wanted.edit || row.edit === wanted.edit)
    && ((wanted.low === "" && wanted.high === "") || tempi.some(tempo => tempo !== null
      && (wanted.low === "" || tempo >= Number(wanted.low)) && (wanted.high === "" || tempo <= Number(wanted.high))))
    && wanted.text.toLowerCase().split(/\s+/).every(word => text.includes(word));
}
function filter() {
  if (sounding) sounding.pause();
  const found = entries.filter(fits), cards = [];
  let last = null;
  for (const entry of found) {
    const one = data.datasets[entry.row.dataset];
    if (entry.row.dataset !== last) cards.push(h("h3", {}, one.title, h("small", {}, one.about)));
    last = entry.row.dataset;
    if (!entry.card) {
      entry.card = card(entry.row);
      for (const picture of entry.card.querySelectorAll("img[data-media], video[data-media]")) near.observe(picture);
    }
    cards.push(entry.card);
  }
  at("cards").replaceChildren(...cards);
  at("count").textContent = found.length ? `${number.format(found.length)} of the ${number.format(entries.length)} rows in this page`
    + `; the build has ${number.format(sum(d => d.done))}.` : entries.length ? "No row fits." : "There are no rows in this page.";
}
function select(label, name, values) {
  const field = h("select", {name, onchange: () => { wanted[name] = field.value; filter(); }}, h("option", {value: ""}, "any"), values.map(value => h("option", {value}, value)));
  return h("label", {}, label, field);
}
const unique = list => [...new Set(list.filter(Boolean))].sort();
const limit = (name, label) => h("input", {type: "number", name, min: 0, max: 400, placeholder: name === "low" ? "from" : "to", "aria-label": label,
  oninput: event => { wanted[name] = event.target.value; filter(); }});
const datasets = choice("Dataset of the rows", [["", "All", entries.length], ...names.map(name => [name, data.datasets[name].title, entries.filter(entry => entry.row.dataset === name).length])],
  "", value => { wanted.dataset = value; filter(); });
at("filters").append(datasets,
  h("label", {class: "wide"}, "Search", h("input", {type: "search", name: "text", placeholder: "captions, instructions, ids", autocomplete: "off", spellcheck: "false",
    oninput: event => { wanted.text = event.target.value; filter(); }})),
  select("Split", "split", ["train", "eval"]),
  select("Key", "key", unique(data.rows.flatMap(row => sides(row).map(part => part.key)))),
  select("Edit", "edit", unique(data.rows.map(row => row.edit))),
  h("fieldset", {class: "range"}, h("legend", {}, "Tempo, BPM"), h("div", {}, limit("low", "Tempo from, BPM"), "–", limit("high", "Tempo to, BPM"))),
  h("button", {type: "reset", class: "quiet"}, "Reset"));
at("filters").addEventListener("submit", event => event.preventDefault());
at("filters").addEventListener("reset", () => {
  for (const name of Object.keys(wanted)) wanted[name] = "";
  for (const button of datasets.querySelectorAll("button")) button.setAttribute("aria-pressed", String(button.dataset.value === ""));
  filter();
});
filter();
})();

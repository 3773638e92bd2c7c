// The text with its times: each word plays the sound from there on.

import { part } from "./interface.js";
import { clock, toSrt, toText, toVtt } from "./subtitles.js";

const FORMS = { srt: toSrt, vtt: toVtt, txt: toText };
const STEPS = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1, Home: -Infinity, End: Infinity };

export function startTranscript(reportUnplayable) {
  part("segments").addEventListener("click", event => {
    if (event.target.matches(".word")) playFrom(event.target, reportUnplayable);
  });
  part("segments").addEventListener("keydown", moveFocus);
  part("player").addEventListener("timeupdate", markPlaying);
}

export function clearTranscript(file) {
  part("segments").replaceChildren();
  part("result").hidden = part("downloads").hidden = true;
  URL.revokeObjectURL(part("player").src);
  part("player").src = URL.createObjectURL(file);
}

export function addSegment(segment) {
  const time = document.createElement("span");
  time.className = "time";
  time.textContent = clock(segment.start, ".").slice(0, -2);
  const text = document.createElement("span");
  text.append(...makeText(segment));
  const item = document.createElement("li");
  item.append(time, text);
  part("segments").append(item);
  part("result").hidden = false;
  const first = part("segments").querySelector(".word");
  if (first && !part("segments").querySelector(".word[tabindex='0']")) first.tabIndex = 0;
}

// The segment's text with a button in place of each word; a segment without words is one.
function makeText({ text, start, end, words }) {
  const parts = [];
  let at = 0;
  for (const word of words?.length ? words : [{ word: text.trim(), start, end }]) {
    const found = text.indexOf(word.word, at);
    if (found < 0) continue;
    parts.push(text.slice(at, found), makeWord(word));
    at = found + word.word.length;
  }
  return [...parts, text.slice(at)];
}

// One word alone is reached by the Tab key; arrow keys go from it to the others.
function makeWord(word) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "word";
  button.textContent = word.word;
  button.tabIndex = -1;
  Object.assign(button.dataset, { start: word.start, end: word.end });
  return button;
}

function playFrom(word, reportUnplayable) {
  setFocus(word);
  part("player").currentTime = Number(word.dataset.start);
  part("player").play().catch(error => error.name === "NotSupportedError" && reportUnplayable());
}

function moveFocus(event) {
  const all = [...part("segments").querySelectorAll(".word")];
  const step = STEPS[event.key];
  if (!step || event.ctrlKey || event.altKey || event.metaKey) return;
  event.preventDefault();
  setFocus(all[Math.min(Math.max(all.indexOf(document.activeElement) + step, 0), all.length - 1)]);
}

function setFocus(word) {
  for (const other of part("segments").querySelectorAll(".word[tabindex='0']")) other.tabIndex = -1;
  word.tabIndex = 0;
  word.focus();
}

function markPlaying() {
  const { currentTime: now, paused } = part("player");
  for (const word of part("segments").querySelectorAll(".word")) {
    word.classList.toggle("playing", !paused && Number(word.dataset.start) <= now && now < Number(word.dataset.end));
  }
}

export function offerDownloads(segments, file) {
  const stem = file.name.replace(/\.[^.]*$/, "");
  for (const [form, write] of Object.entries(FORMS)) {
    URL.revokeObjectURL(part(form).href);
    part(form).href = URL.createObjectURL(new Blob([write(segments)], { type: "text/plain" }));
    part(form).download = `${stem}.${form}`;
  }
  part("downloads").hidden = !segments.length;
}

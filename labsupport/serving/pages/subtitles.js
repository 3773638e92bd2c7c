// Segments {start, end, text} as files, as `labsupport.speech.transcripts` writes them; times are seconds.

const SPACE = /[\t-\r\x1c-\x20\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]+/g; // as Python's str.split
const CONTROLS = /[\x00-\x1f\x7f-\x9f]/g;

export function toSrt(segments) {
  const cue = (segment, i) => `${i + 1}\n${timeLine(segment, ",")}\n${oneLine(segment.text).replace(/-{2,}>/g, "->")}\n\n`;
  return withText(segments).map(cue).join("");
}

export function toVtt(segments) {
  const cue = segment => `${timeLine(segment, ".")}\n${escapeCue(oneLine(segment.text))}\n\n`;
  return "WEBVTT\n\n" + withText(segments).map(cue).join("");
}

export function toText(segments) {
  return segments.map(segment => oneLine(segment.text) + "\n").join("");
}

export function clock(seconds, point) {
  return writeTime(toMilliseconds(seconds), point);
}

// WebVTT wants an end after the start.
function timeLine(segment, point) {
  const start = toMilliseconds(segment.start);
  const end = Math.max(toMilliseconds(segment.end), start + 1);
  return `${writeTime(start, point)} --> ${writeTime(end, point)}`;
}

function writeTime(milliseconds, point) {
  const seconds = Math.floor(milliseconds / 1000);
  const two = value => String(value).padStart(2, "0");
  const parts = [two(Math.floor(seconds / 3600)), two(Math.floor(seconds / 60) % 60), two(seconds % 60)];
  return parts.join(":") + point + String(milliseconds % 1000).padStart(3, "0");
}

// Half a millisecond goes to the even one, as Python rounds.
function toMilliseconds(seconds) {
  const exact = seconds * 1000, below = Math.floor(exact), rest = exact - below;
  return rest > 0.5 || (rest === 0.5 && below % 2 === 1) ? below + 1 : below;
}

// A blank line would end a cue early.
function withText(segments) {
  return segments.filter(segment => oneLine(segment.text));
}

function oneLine(text) {
  return text.replace(SPACE, " ").replace(/^ | $/g, "").replace(CONTROLS, "\ufffd");
}

function escapeCue(text) {
  return text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
}

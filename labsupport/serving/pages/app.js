// The page of the service: a file or a recording goes out, and its text comes in, segment by segment.

import { readEvents } from "./events.js";
import { part, say, showTheme, startInterface, switchLanguage } from "./interface.js";
import { addSegment, clearTranscript, offerDownloads, startTranscript } from "./transcript.js";

const state = { file: null, recorder: null, request: null, segments: [], status: "" };
const MICROPHONE = { NotAllowedError: "microphoneDenied", NotFoundError: "microphoneMissing" };

// --- the sound ---

function choose(file) {
  if (!file || state.request) return;
  state.file = file;
  part("chosen").textContent = file.name;
  showWorking(false);
}

async function toggleRecording() {
  if (state.recorder) return state.recorder.stop();
  showProblem("");
  try {
    record(await navigator.mediaDevices.getUserMedia({ audio: true }));
  } catch (error) { // without https, there is no mediaDevices at all
    showProblem(say(MICROPHONE[error.name] ?? "microphoneUnusable"));
  }
}

function record(stream) {
  const pieces = [];
  state.recorder = new MediaRecorder(stream);
  state.recorder.ondataavailable = event => pieces.push(event.data);
  state.recorder.onstop = () => {
    for (const track of stream.getTracks()) track.stop();
    const type = state.recorder.mimeType;
    state.recorder = null;
    choose(new File(pieces, `recording.${type.includes("mp4") ? "mp4" : "webm"}`, { type }));
    showRecording(false);
    part("request").requestSubmit();
  };
  state.recorder.start();
  showRecording(true);
}

function showRecording(on) {
  part("record").setAttribute("aria-pressed", String(on));
  part("record").dataset.text = on ? "stop" : "record";
  part("record").textContent = say(part("record").dataset.text);
  showStatus(on ? "recording" : "");
  showWorking(false);
}

// --- the request ---

async function transcribe(event) {
  event.preventDefault();
  if (!state.file || state.request || state.recorder) return;
  const { file } = state;
  state.request = new AbortController();
  state.segments = [];
  showProblem("");
  clearTranscript(file);
  showWorking(true);
  showStatus("sending");
  try {
    await receive(await send(file, part("task").value), file);
  } catch (error) {
    showStatus(error.name === "AbortError" ? "cancelled" : "");
    if (error.name !== "AbortError") showProblem(say(state.segments.length ? "interrupted" : "unreachable"));
  } finally {
    state.request = null;
    showWorking(false);
  }
}

// Translations are answered as a whole: OpenAI's API streams transcriptions alone.
function send(file, task) {
  const form = new FormData();
  form.append("file", file, file.name);
  form.append("model", "whisper-1");
  form.append("response_format", "verbose_json");
  if (task === "transcriptions") {
    form.append("stream", "true");
    form.append("timestamp_granularities[]", "word");
    form.append("timestamp_granularities[]", "segment");
    form.append("language", part("language").value);
  }
  const token = part("token").value.trim();
  const headers = token ? { Authorization: `Bearer ${encodeURI(token)}` } : {};
  return fetch(`v1/audio/${task}`, { method: "POST", body: form, headers, signal: state.request.signal });
}

async function receive(response, file) {
  if (!response.ok) return refuse(response);
  showStatus("working");
  const streamed = response.headers.get("content-type").startsWith("text/event-stream");
  const error = await (streamed ? readStream(response) : readWhole(response));
  if (error) return showStatus(""), showProblem(describe(error));
  offerDownloads(state.segments, file);
  showStatus(state.segments.length ? "done" : "nothing");
}

// The error with which the stream ends, if it does.
async function readStream(response) {
  for await (const event of readEvents(response)) {
    if (event.type === "transcript.text.segment") show(event);
    if (event.type === "transcript.text.done") return null;
    if (event.error) return event.error;
  }
  throw new Error("the stream ended early");
}

async function readWhole(response) {
  for (const segment of (await response.json()).segments) show({ ...segment, text: segment.text.trim() });
}

function show(segment) {
  state.segments.push(segment);
  addSegment(segment);
}

// --- what goes wrong ---

async function refuse(response) {
  showStatus("");
  const answer = await response.json().catch(() => null); // a proxy's error is no JSON
  const seconds = response.headers.get("Retry-After") ?? "5";
  if (response.status === 401) askForToken();
  else if (response.status === 429) showProblem(say("busy", { seconds }));
  else showProblem(describe(answer?.error ?? { message: `HTTP ${response.status}` }));
}

function askForToken() {
  showProblem(say(part("token").value ? "tokenWrong" : "tokenNeeded"));
  part("token-field").hidden = false;
  part("token").focus();
}

// In the page's language where it knows the error, else as the server says it.
function describe(error) {
  return say(`problem_${error.code}`) ?? say("refused", { reason: error.message });
}

// --- what is shown ---

// The focus goes on to a button that can be used.
function showWorking(on) {
  const focused = document.activeElement;
  part("cancel").hidden = !on;
  if (on && focused === part("start")) part("cancel").focus();
  part("start").disabled = on || !state.file || Boolean(state.recorder);
  if (!on && focused === part("cancel")) part("start").focus();
  part("record").disabled = part("file").disabled = on;
}

function showStatus(name) {
  state.status = name;
  part("status").textContent = name && say(name);
}

function showProblem(text) {
  part("problem").textContent = text;
}

// --- what a user does ---

part("request").addEventListener("submit", transcribe);
part("file").addEventListener("change", event => choose(event.target.files[0]));
part("record").addEventListener("click", toggleRecording);
part("cancel").addEventListener("click", () => state.request?.abort());
part("theme").addEventListener("click", () => showTheme(part("theme").dataset.text));
part("interface-language").addEventListener("click", () => {
  switchLanguage();
  showStatus(state.status);
  showProblem("");
});
document.addEventListener("keydown", event => event.key === "Escape" && state.request?.abort());
for (const name of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(name, event => {
    event.preventDefault(); // beside the box, too: the browser would leave the page for the file
    part("drop").classList.toggle("over", name === "dragover");
    if (name === "drop") choose(event.dataTransfer.files[0]);
  });
}

startInterface();
startTranscript(() => showProblem(say("unplayable")));

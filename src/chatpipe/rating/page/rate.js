"use strict";
// The rating page: it shows one pair at a time, all text as text, and sends what the rater says.
const VERDICTS = ["a", "b", "tie", "both_bad"];
const texts = document.body.dataset;
const $ = (id) => document.getElementById(id);
let rater = texts.rater || localStorage.getItem("rater") || "";
let key = sessionStorage.getItem("key") || "";
let token = null;
let busy = false;

function show(id, visible) { $(id).hidden = !visible; }

function say(message) {
  $("message").textContent = message;
  show("message", Boolean(message));
}

function filled(text, state) {
  return text.replace("{done}", state.done).replace("{total}", state.total);
}

async function send(path, body) {
  const headers = { "Content-Type": "application/json" };
  if (key) headers.Authorization = `Bearer ${key}`;
  const reply = await fetch(path, { method: "POST", headers, body: JSON.stringify({ rater, ...body }) });
  if (reply.status === 401) throw new Error("refused");
  if (reply.status === 409) throw new Error("stale");
  if (!reply.ok) throw new Error("offline");
  return reply.json();
}

async function step(path, body) {
  if (busy) return;
  busy = true;
  say("");
  for (const button of document.querySelectorAll("button")) button.disabled = true;
  try {
    draw(await send(path, body));
  } catch (error) {
    await recover(["refused", "stale"].includes(error.message) ? error.message : "offline");
  } finally {
    busy = false;
    for (const button of document.querySelectorAll("button")) button.disabled = false;
    $("undo").disabled = false;
  }
}

async function recover(reason) {
  if (reason === "stale") {
    try { draw(await send("api/next", {})); } catch { reason = "offline"; }
  }
  if (reason === "refused") { key = ""; sessionStorage.removeItem("key"); askForName(); }
  say(texts[reason]);
}

function draw(state) {
  const pair = state.pair;
  show("start", false);
  show("pair", Boolean(pair));
  show("undo", state.done > 0);
  show("keys", true);
  $("progress").textContent = filled(texts.progress, state);
  show("bar", true);
  $("bar").max = Math.max(1, state.total);
  $("bar").value = state.done;
  if (!pair) { token = null; $("progress").textContent = filled(texts.finished, state); return; }
  token = pair.token;
  $("system").textContent = pair.system;
  show("before", Boolean(pair.system));
  $("history").replaceChildren(...pair.history.flatMap(turn));
  $("instruction").textContent = pair.instruction;
  $("input").textContent = pair.input;
  show("with-input", Boolean(pair.input));
  for (const side of ["a", "b"]) {
    $(`answer-${side}`).textContent = pair[side] || texts.empty;
    $(`answer-${side}`).scrollTop = 0;
    for (const radio of document.getElementsByName(`correct-${side}`))
      radio.checked = Number(radio.value) === pair[`correct_${side}`];
  }
  $("remark").value = pair.remark || "";
  window.scrollTo(0, 0);
  $("prompt").focus({ preventScroll: true });
}

function turn({ role, text }) {
  const title = document.createElement("h2");
  title.textContent = texts[role];
  const body = document.createElement("p");
  body.className = "text";
  body.dir = "auto";
  body.textContent = text;
  return [title, body];
}

function correct(side) {
  const chosen = document.querySelector(`input[name="correct-${side}"]:checked`);
  return chosen ? Number(chosen.value) : null;
}

function rate(verdict) {
  if (!token || $("pair").hidden) return;
  step("api/rate", {
    token, verdict, correct_a: correct("a"), correct_b: correct("b"), remark: $("remark").value,
  });
}

function undo() {
  if (!$("undo").hidden) step("api/undo", {});
}

function askForName() {
  show("start", true);
  show("pair", false);
  show("undo", false);
  show("name-row", !texts.rater);
  $("name").value = rater;
  ($("name-row").hidden ? $("key") : $("name")).focus();
}

$("start").addEventListener("submit", (event) => {
  event.preventDefault();
  rater = texts.rater || $("name").value.trim();
  if (!rater) { $("name").focus(); return; }
  if (!texts.rater) localStorage.setItem("rater", rater);
  if ($("key")) { key = $("key").value.trim(); sessionStorage.setItem("key", key); }
  step("api/next", {});
});
for (const button of document.querySelectorAll("[data-verdict]"))
  button.addEventListener("click", () => rate(button.dataset.verdict));
$("undo").addEventListener("click", undo);
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
  if (event.target.matches("textarea, input:not([type=radio])")) return;
  const verdict = VERDICTS[Number(event.key) - 1];
  if (verdict) { event.preventDefault(); rate(verdict); }
  if (event.key.toLowerCase() === "u") undo();
});
if (texts.rater && !texts.needsKey) step("api/next", {});
else askForName();

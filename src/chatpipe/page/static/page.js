// One to four models side by side on one prompt. What models write is only ever set as text.

import * as history from "./history.js";
import * as server from "./stream.js";
import { current, load, t, use } from "./texts.js";

const MOST_MODELS = 4;
const SETTINGS = "chatpipe.settings";
const KEY = "chatpipe.key"; // of the endpoint; in this tab's session storage
const NUMBERS = ["temperature", "top_p", "max_tokens", "seed"];
const DEFAULTS = { system: "", temperature: "0", top_p: "1", max_tokens: "", seed: "0", models: [] };
const LARGEST_SEED = 2 ** 31 - 1;

const at = (id) => document.getElementById(id);
let modelNames = []; // names of the server's models
let ownSettings = {}; // by name, where the server tells them
let conversation = fresh();
let editing = null; // index of the turn that the form replaces
let running = null; // AbortController of the answers that are being written

function fresh() {
  // crypto.randomUUID is missing where another machine reads the page by http.
  const id = Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16)).join("-");
  return { id, created: new Date().toISOString(), turns: [] };
}

function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

function say(text, failed = false) {
  at("status").textContent = text;
  at("status").classList.toggle("failed", failed);
}

// ---- models and settings

function readSettings() {
  try {
    return { ...DEFAULTS, ...JSON.parse(localStorage.getItem(SETTINGS) ?? "{}") };
  } catch {
    return { ...DEFAULTS };
  }
}

function chosen() {
  return [...at("models").querySelectorAll("input:checked")].map((box) => box.value);
}

function keepSettings() {
  const settings = { system: at("system").value, models: chosen() };
  for (const name of NUMBERS) settings[name] = at(name).value;
  localStorage.setItem(SETTINGS, JSON.stringify(settings));
  sessionStorage.setItem(KEY, at("key").value);
}

function showModels() {
  const before = readSettings().models.filter((name) => modelNames.includes(name));
  const on = before.length ? before : modelNames.slice(0, 1);
  const boxes = modelNames.map((name) => {
    const box = make("input", { type: "checkbox", value: name, checked: on.includes(name) });
    box.addEventListener("change", () => { limitModels(); keepSettings(); show(); });
    return make("label", {}, box, make("span", { textContent: name }));
  });
  at("models").replaceChildren(at("models").querySelector("legend"), ...boxes);
  limitModels();
}

function limitModels() {
  const full = chosen().length >= MOST_MODELS;
  for (const box of at("models").querySelectorAll("input")) box.disabled = full && !box.checked;
  // An empty field leaves the number to each model.
  const own = new Set(chosen().map((name) => ownSettings[name]?.max_new_tokens).filter(Boolean));
  at("max_tokens").placeholder = [...own].join(", ");
}

async function findModels() {
  try {
    const models = await server.models(at("key").value);
    modelNames = models.map((model) => model.id);
    ownSettings = Object.fromEntries(models.map((model) => [model.id, model.generation]));
    say("");
  } catch (error) {
    say(t("The server's models could not be listed: {reason}", { reason: error.message }), true);
    at("key").closest("details").open = true;
  }
  showModels();
  show();
}

// ---- what is shown

function show() {
  const turns = conversation.turns.map(shownTurn);
  const hint = make("p", { className: "empty", textContent: t("Choose up to four models and ask them the same.") });
  at("turns").replaceChildren(...turns, ...(turns.length || chosen().length ? [] : [hint]));
  at("editing").hidden = editing === null;
  at("stop").disabled = running === null;
  at("send").disabled = running !== null;
  showHistory();
}

function shownTurn(turn, index) {
  const edit = make("button", { type: "button", className: "small", textContent: t("Edit"), disabled: running !== null });
  edit.addEventListener("click", () => beginEditing(index));
  const question = make("div", { className: "question" },
    make("p", { textContent: turn.instruction, dir: "auto" }),
    ...(turn.input ? [make("p", { className: "input", textContent: turn.input, dir: "auto" })] : []), edit);
  const last = index === conversation.turns.length - 1;
  const answers = Object.entries(turn.answers).map(([model, answer]) => shownAnswer(turn, model, answer, last));
  return make("section", { className: "turn" }, question, make("div", { className: "answers" }, ...answers));
}

function shownAnswer(turn, model, answer, last) {
  const card = make("article", { className: "answer" }, make("h3", { textContent: model }));
  card.dataset.model = model;
  const text = make("p", { className: "text", dir: "auto" });
  const note = make("span", { className: "note" });
  const foot = make("p", { className: "foot" }, note);
  if (last) {
    const retry = make("button", { type: "button", className: "small", textContent: t("Retry"), disabled: running !== null });
    retry.addEventListener("click", () => run(turn, [model]));
    foot.append(retry);
  }
  card.append(text, foot);
  refresh(card, answer);
  return card;
}

// Writes an answer's text and note into its card.
function refresh(card, answer) {
  card.classList.toggle("writing", answer.state === "writing");
  card.setAttribute("aria-busy", String(answer.state === "writing"));
  card.querySelector(".text").textContent = answer.text;
  const note = card.querySelector(".note");
  note.textContent = noteOf(answer);
  note.classList.toggle("error", answer.state === "failed");
}

function noteOf(answer) {
  const values = { tokens: answer.tokens, seconds: answer.seconds?.toFixed(1) };
  const text = answer.tokens === 1 ? t("1 token, {seconds} s", values) : t("{tokens} tokens, {seconds} s", values);
  const tokens = answer.tokens == null ? "" : text;
  if (answer.state === "failed") return t("Failed: {reason}", { reason: answer.reason });
  if (answer.state === "stopped") return t("stopped");
  if (answer.state === "writing") return t("writing …");
  return answer.finish === "length" ? t("{tokens}, cut at the limit", { tokens }) : tokens;
}

function cardOf(model) {
  const cards = at("turns").lastElementChild?.querySelectorAll(".answer") ?? [];
  return [...cards].find((card) => card.dataset.model === model);
}

function showHistory() {
  const rows = history.all().map((each) => {
    const title = make("button", { type: "button", className: "title", textContent: each.turns[0]?.instruction || "…", disabled: running !== null });
    title.setAttribute("aria-current", String(each.id === conversation.id));
    title.addEventListener("click", () => { conversation = each; endEditing(); show(); });
    const remove = make("button", { type: "button", className: "small", textContent: "×", disabled: running !== null });
    remove.setAttribute("aria-label", t("Delete: {title}", { title: title.textContent }));
    remove.addEventListener("click", () => {
      history.remove(each.id);
      if (each.id === conversation.id) conversation = fresh();
      show();
    });
    return make("li", {}, title, remove);
  });
  at("history").replaceChildren(...rows);
  at("export").disabled = rows.length === 0;
}

// ---- asking

// The settings of the form as the request has them, or a sentence on what is wrong.
function requestSettings() {
  const request = {};
  for (const name of NUMBERS) {
    const field = at(name);
    if (!field.checkValidity()) {
      const label = t(field.labels[0].querySelector("span").dataset.text);
      throw new Error(t("{name}: write a number from {least} to {most}.", { name: label, least: field.min, most: field.max }));
    }
    if (field.value !== "") request[name] = Number(field.value);
  }
  request.seed ??= Math.floor(Math.random() * LARGEST_SEED);
  return request;
}

// The messages that a model gets: of earlier turns, those that it has answered itself.
function messagesFor(model, turn) {
  const messages = at("system").value.trim() ? [{ role: "system", content: at("system").value }] : [];
  for (const earlier of conversation.turns.slice(0, conversation.turns.indexOf(turn))) {
    const answer = earlier.answers[model];
    if (answer?.text) messages.push(userMessage(earlier), { role: "assistant", content: answer.text });
  }
  return [...messages, { role: "user", content: turn.instruction }];
}

// An earlier question as one text.
function userMessage(turn) {
  return { role: "user", content: turn.input ? `${turn.instruction}\n\n${turn.input}` : turn.instruction };
}

// The settings of the form; says what is wrong with them and gives nothing where they are no settings.
function usableSettings() {
  try {
    return requestSettings();
  } catch (error) {
    return void say(error.message, true);
  }
}

// Has these models answer the turn, all at once.
async function run(turn, models) {
  const settings = usableSettings();
  if (!settings) return;
  say("");
  running = new AbortController();
  for (const model of models) {
    turn.answers[model] = { text: "", state: "writing", settings, system: at("system").value };
  }
  show();
  at("turns").lastElementChild.scrollIntoView({ block: "start" });
  await Promise.all(models.map((model) => write(turn, model, settings, running.signal)));
  running = null;
  history.keep(conversation);
  show();
}

async function write(turn, model, settings, signal) {
  const answer = turn.answers[model];
  const started = performance.now();
  const request = { model, messages: messagesFor(model, turn), ...settings };
  if (turn.input) request.input = turn.input; // a variant's template may have a place for it
  try {
    for await (const piece of server.answer(request, at("key").value, signal)) {
      answer.text += piece.text;
      answer.finish = piece.finish ?? answer.finish;
      answer.tokens = piece.usage?.completion_tokens ?? answer.tokens;
      answer.seconds = (performance.now() - started) / 1000;
      refresh(cardOf(model), answer);
    }
    answer.state = "done";
  } catch (error) {
    answer.state = signal.aborted ? "stopped" : "failed";
    answer.reason = signal.aborted ? undefined : error.message;
  }
  refresh(cardOf(model), answer);
}

function send() {
  const instruction = at("instruction").value.trim();
  const models = chosen();
  if (running) return;
  if (!instruction) return say(t("Write a prompt first."), true);
  if (!models.length) return say(t("Choose a model first."), true);
  if (!usableSettings()) return;
  if (editing !== null) conversation.turns = conversation.turns.slice(0, editing);
  const turn = { instruction, input: at("input").value.trim(), answers: {} };
  conversation.turns.push(turn);
  at("instruction").value = at("input").value = "";
  editing = null;
  run(turn, models);
}

function beginEditing(index) {
  const turn = conversation.turns[index];
  editing = index;
  at("instruction").value = turn.instruction;
  at("input").value = turn.input;
  at("input-fold").open = Boolean(turn.input);
  show();
  at("instruction").focus();
}

function endEditing() {
  if (editing !== null) at("instruction").value = at("input").value = "";
  editing = null;
}

// ---- the page's controls

function listen() {
  at("ask").addEventListener("submit", (event) => { event.preventDefault(); send(); });
  at("stop").addEventListener("click", () => running?.abort());
  at("keep").addEventListener("click", () => { endEditing(); show(); });
  at("new").addEventListener("click", () => {
    if (running) return;
    conversation = fresh();
    endEditing();
    show();
    at("instruction").focus();
  });
  at("export").addEventListener("click", () => history.download(history.all()));
  at("language").addEventListener("change", () => { use(at("language").value); show(); });
  at("show-side").addEventListener("click", () => {
    const open = at("side").classList.toggle("open");
    at("show-side").setAttribute("aria-expanded", String(open));
  });
  at("key-form").addEventListener("submit", (event) => event.preventDefault());
  at("key").addEventListener("change", () => { keepSettings(); findModels(); });
  for (const name of ["system", ...NUMBERS]) at(name).addEventListener("change", keepSettings);
  for (const name of ["instruction", "input"]) {
    at(name).addEventListener("keydown", (event) => {
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
        event.preventDefault();
        send();
      }
    });
  }
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") running?.abort();
  });
}

await load();
at("language").value = current();
const settings = readSettings();
at("system").value = settings.system;
for (const name of NUMBERS) at(name).value = settings[name];
at("key").value = sessionStorage.getItem(KEY) ?? "";
listen();
show();
await findModels();

// The page's texts: the English one is the key, texts.json has the others.

const LANGUAGE = "chatpipe.language";
let table = {};
let language = "en";

export async function load() {
  const response = await fetch("texts.json");
  table = response.ok ? await response.json() : {};
  const saved = localStorage.getItem(LANGUAGE);
  const own = navigator.language.startsWith("zh") ? "zh" : "en";
  use(saved === "zh" || saved === "en" ? saved : own);
}

export function use(name) {
  language = name;
  localStorage.setItem(LANGUAGE, name);
  document.documentElement.lang = name === "zh" ? "zh-Hans" : "en";
  for (const element of document.querySelectorAll("[data-text]")) {
    element.textContent = t(element.dataset.text);
  }
}

export function current() {
  return language;
}

export function t(text, values = {}) {
  const shown = (table[language] ?? {})[text] ?? text;
  return shown.replace(/\{(\w+)\}/g, (whole, name) => String(values[name] ?? whole));
}

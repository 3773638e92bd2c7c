// The language and the theme of the page.

import { LANGUAGES, UNNAMED } from "./languages.js";
import { TEXTS } from "./texts.js";

let language = "en";

export const part = id => document.getElementById(id);

// A text by its name, with values in place of {names}; undefined where there is none.
export function say(name, values = {}) {
  const text = TEXTS[language][name];
  return Object.entries(values).reduce((filled, [key, value]) => filled.replace(`{${key}}`, () => value), text);
}

export function startInterface() {
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  showTheme(recall("theme") ?? (dark ? "dark" : "light"));
  showInterface(recall("language") ?? (navigator.language.startsWith("zh") ? "zh" : "en"));
}

export function switchLanguage() {
  showInterface(language === "zh" ? "en" : "zh");
}

function showInterface(chosen) {
  language = chosen in TEXTS ? chosen : "en";
  remember("language", language);
  document.documentElement.lang = language === "zh" ? "zh-CN" : "en";
  document.title = say("title");
  for (const element of document.querySelectorAll("[data-text]")) element.textContent = say(element.dataset.text);
  const other = part("interface-language");
  [other.textContent, other.lang] = language === "zh" ? ["English", "en"] : ["中文", "zh-CN"];
  listLanguages();
}

export function showTheme(theme) {
  document.documentElement.dataset.theme = theme;
  part("theme").dataset.text = theme === "dark" ? "light" : "dark";
  part("theme").textContent = say(part("theme").dataset.text);
  remember("theme", theme);
}

function listLanguages() {
  const select = part("language");
  const chosen = select.value;
  const names = new Intl.DisplayNames([language], { type: "language", fallback: "none" });
  const options = LANGUAGES.map(code => new Option(names.of(code) ?? UNNAMED[language][code] ?? code, code));
  options.sort((one, other) => one.text.localeCompare(other.text, language));
  select.replaceChildren(new Option(say("detect"), ""), ...options);
  select.value = chosen;
}

// A browser may forbid a page to store anything; the choice then holds until the page is left.
function remember(name, value) {
  try {
    localStorage.setItem(name, value);
  } catch (error) {
    console.warn("The choice is not stored:", error.message);
  }
}

function recall(name) {
  try {
    return localStorage.getItem(name);
  } catch {
    return null;
  }
}

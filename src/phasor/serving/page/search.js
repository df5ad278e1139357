"use strict";
// Talks to this server's own /v1/search only. Everything shown is set as text, never as markup.
const element = id => document.getElementById(id);
let number = 0;

const moved = move => move > 0 ? [`▲ up ${move}`, "up"] : move < 0 ? [`▼ down ${-move}`, "down"] : ["same place", ""];

function show(list, hits, withMoves) {
  list.replaceChildren(...hits.map((hit, place) => {
    const item = element("hit").content.cloneNode(true).firstElementChild;
    const set = (name, text) => { item.querySelector(`.${name}`).textContent = text; };
    set("rank", `${place + 1}.`);
    set("title", hit.title || hit.id);
    set("score", hit.score.toFixed(3));
    set("source", hit.source);
    set("text", hit.text);
    if (withMoves) {
      const [text, kind] = moved(hit.move);
      set("move", text);
      if (kind) item.querySelector(".move").classList.add(kind);
    }
    return item;
  }));
}

function tell(text, isProblem = false) {
  element("status").textContent = text;
  element("status").className = isProblem ? "problem" : "hint";
}

async function ask(body) {
  const answer = await fetch("v1/search", {
    method: "POST", headers: {"content-type": "application/json"}, body: JSON.stringify(body),
  });
  const content = await answer.json();
  if (!answer.ok) throw new Error(content.error.message);
  return content;
}

async function search(event) {
  event.preventDefault();
  const query = element("query").value.trim(), instruction = element("instruction").value.trim(), mine = ++number;
  if (!query) return;
  tell("Searching …");
  try {
    const found = await ask({query, include_first_stage: true, ...(instruction && {instruction})});
    if (mine !== number) return; // a later search is on its way
    const reranked = found.results.some((hit, i) => hit.score !== hit.first_stage_score || hit.id !== found.first_stage[i].id);
    show(element("final"), found.results, true);
    show(element("first"), found.first_stage, false);
    element("first").parentElement.hidden = !reranked;
    element("final-title").textContent = reranked ? "Reranked" : "Found";
    element("answer").hidden = false;
    const time = Object.values(found.milliseconds).reduce((sum, part) => sum + part, 0);
    tell(`${found.results.length} of ${found.index.passages.toLocaleString("en")} passages in ${time.toFixed(0)} ms. Instruction: ${found.instruction}`);
  } catch (problem) {
    if (mine === number) tell(problem.message, true);
  }
}

function walk(step) {
  const items = [...document.querySelectorAll("#final li, #first li")].filter(item => item.offsetParent);
  const next = items[Math.max(0, Math.min(items.length - 1, items.indexOf(document.activeElement) + step))];
  if (next) next.focus();
}

document.addEventListener("keydown", event => {
  if (event.target.matches("input") || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "/") { event.preventDefault(); element("query").select(); }
  if (event.key === "j") walk(1);
  if (event.key === "k") walk(-1);
});
element("ask").addEventListener("submit", search);

fetch("v1/models").then(answer => answer.json()).then(models => {
  const instructions = Object.values(models.data[0].instructions);
  element("instruction").placeholder = instructions[0];
  element("instructions").replaceChildren(...instructions.map(text => Object.assign(document.createElement("option"), {value: text})));
}).catch(() => tell("The list of models cannot be read.", true));

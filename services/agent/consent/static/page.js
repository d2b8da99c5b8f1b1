"use strict";
// Everything from a request is put in as text, never as markup. The token is in the address after #, where no server sees it.
const KEPT = "undersong-consent-token";
const EVERY_MS = 3000;
const LONGEST_MS = 10000;
const WORDS = { "asked": "waits", "used-up": "all runs used" };
const token = (() => {
  const given = decodeURIComponent(location.hash.slice(1));
  if (given && given !== "request") {
    sessionStorage.setItem(KEPT, given);
    history.replaceState(null, "", location.pathname);
  }
  return sessionStorage.getItem(KEPT) || "";
})();
const PAGE = 50;
const state = { list: null, more: false, most: PAGE, keys: [], chosen: null, shown: "" };
const find = (id) => document.getElementById(id);

function made(tag, text, attributes = {}) {
  const element = document.createElement(tag);
  if (text !== undefined && text !== null) element.textContent = text;
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

async function ask(path, body) {
  const options = { headers: { Authorization: `Bearer ${token}` }, signal: AbortSignal.timeout(LONGEST_MS) };
  if (body !== undefined) {
    options.method = "POST";
    options.headers["Content-Type"] = "application/json";
    options.body = JSON.stringify(body);
  }
  const answer = await fetch(path, options);
  const document = await answer.json();
  if (!answer.ok) throw Object.assign(new Error(document.detail || answer.statusText), { status: answer.status });
  return document;
}

function tell(error, of = "live") {
  const place = find("error");
  place.hidden = error === null;
  place.dataset.of = of;
  if (error === null) return;
  if (error.status === 401) place.textContent = `${error.message} Open the address that the command “undersong consent page” prints.`;
  else if (error.status) place.textContent = error.message;
  else place.textContent = "The agent does not answer. It may be stopped: this page tries again by itself.";
}

function badge(request) {
  let text = WORDS[request.state] || request.state;
  if (request.state === "asked" && request.need > 1) text += `, ${request.approvals} of ${request.need}`;
  if (request.runs_left !== null && (request.state === "approved" || request.state === "active")) text += `, ${request.runs_left} left`;
  return made("span", text, { class: `badge ${request.state}` });
}

function drawList() {
  const list = find("list");
  const focused = document.activeElement && document.activeElement.dataset ? document.activeElement.dataset.digest : null;
  list.replaceChildren(...state.list.map((request) => {
    const button = made("button", request.name, { type: "button", "data-digest": request.digest });
    if (request.digest === state.chosen) button.setAttribute("aria-current", "true");
    button.append(" ", badge(request), made("small", `${request.requester}, ${new Date(request.asked_at * 1000).toLocaleString()}`));
    button.addEventListener("click", () => choose(request.digest));
    const item = made("li");
    item.append(button);
    return item;
  }));
  find("more").hidden = !state.more;
  if (focused) list.querySelector(`[data-digest="${focused}"]`)?.focus();
}

async function choose(digest) {
  state.chosen = digest;
  tell(null);
  drawList();
  find("request").replaceChildren(made("p", "Loading the request…", { class: "soft" }));
  state.shown = "";
  await refreshRequest();
}

async function refreshRequest() {
  if (state.chosen === null) return;
  const digest = state.chosen;
  try {
    const request = await ask(`api/requests/${digest}`);
    if (state.chosen === digest) draw(request);
  } catch (error) {
    if (state.chosen === digest && state.shown === "") find("request").replaceChildren(made("p", error.message, { class: "soft" }));
    throw error;
  }
}

function draw(request) {
  const told = JSON.stringify(request);
  if (told === state.shown) return; // what a person types stays
  state.shown = told;
  const article = find("request");
  const heading = made("h2", request.name);
  heading.append(" ", badge(request));
  const rows = made("tbody");
  for (const field of request.fields) {
    const row = made("tr", null, field.before === null ? {} : { class: "changed" });
    row.append(made("th", field.name, { scope: "row" }));
    const cell = made("td");
    if (field.before !== null) {
      row.firstChild.append(made("span", " (changed)"));
      cell.append(made("del", field.before));
    }
    cell.append(field.value);
    row.append(cell);
    rows.append(row);
  }
  const table = made("table");
  table.append(rows);
  const compared = request.compared === null
    ? "No earlier request was approved here, so nothing is compared."
    : "Marked fields differ from the request that was approved last; what was approved is struck through.";
  const parts = [heading, made("p", compared, { class: "soft" }), table];
  const source = made("details");
  source.append(made("summary", "The recipe's code"));
  source.append(request.source === null
    ? made("p", "The code is not here, or was replaced since.")
    : made("p", request.source.file, { class: "soft" }));
  if (request.source !== null) source.append(made("pre", request.source.text, { tabindex: "0" }));
  parts.push(source);
  if (request.decisions.length) {
    parts.push(made("h3", "Decided so far"));
    const past = made("ul");
    for (const each of request.decisions) {
      const note = each.note ? `: ${each.note}` : "";
      past.append(made("li", `${each.decision} by ${each.key.slice(0, 16)}…, ${new Date(each.at_ms).toLocaleString()}${note}`));
    }
    parts.push(past);
  }
  parts.push(form(request));
  article.replaceChildren(...parts);
}

function labelled(text, control) {
  const label = made("label", text);
  label.append(control);
  return label;
}

function form(request) {
  const box = made("form", null, { "aria-label": "Decide", autocomplete: "off" });
  if (!state.keys.length) {
    box.append(made("p", "No key can be used here: name key files under consent_page.keys in agent.yaml, or use undersong consent approve.", { class: "wide soft" }));
    return box;
  }
  const key = made("select", null, { name: "key" });
  for (const name of state.keys) key.append(made("option", name, { value: name }));
  box.append(
    labelled("Your key", key),
    labelled("Passphrase", made("input", null, { name: "passphrase", type: "password", autocomplete: "off" })),
    labelled(`Rounds that may be run (planned: ${request.rounds})`, made("input", null, { name: "runs", type: "number", min: "1", step: "1" })),
    labelled("Until the end of this day (UTC)", made("input", null, { name: "until", type: "date" })),
    labelled("Note, for those who read it later", made("input", null, { name: "note", maxlength: "200" })),
  );
  if (request.large) {
    box.append(labelled("This may cost more than a quarter of the budget: type the job's name to approve it", made("input", null, { name: "job_name" })));
  }
  const actions = made("div", null, { class: "actions" });
  const given = request.approvals > 0;
  actions.append(made("button", "Approve", { type: "submit", value: "approve" }));
  actions.append(made("button", given ? "Revoke" : "Deny", { type: "submit", value: given ? "revoke" : "deny" }));
  actions.append(made("span", "", { role: "status", id: "told" }));
  box.append(actions);
  box.addEventListener("submit", (event) => {
    event.preventDefault();
    decide(request, box, event.submitter ? event.submitter.value : "approve");
  });
  return box;
}

async function decide(request, box, decision) {
  const value = (name) => box.elements[name] ? box.elements[name].value : "";
  const body = { decision, key: value("key"), passphrase: value("passphrase") };
  if (value("note").trim()) body.note = value("note").trim();
  if (decision === "approve") {
    if (value("runs")) body.runs = Number(value("runs"));
    if (value("until")) body.until = value("until");
    if (request.large) body.job_name = value("job_name");
  }
  const buttons = box.querySelectorAll("button");
  buttons.forEach((button) => { button.disabled = true; });
  find("told").textContent = "Signing…";
  try {
    draw(await ask(`api/requests/${request.digest}/decisions`, body));
    tell(null);
    await refresh();
    find("request").focus();
  } catch (error) {
    if (find("told")) find("told").textContent = "";
    tell(error, "decision");
    buttons.forEach((button) => { button.disabled = false; });
    if (box.elements.passphrase) box.elements.passphrase.value = "";
  }
}

async function refresh() {
  const found = await ask(`api/requests?most=${state.most}`);
  state.keys = found.keys;
  state.more = found.more && state.most < 1000;
  find("site").textContent = found.site;
  const before = JSON.stringify(state.list);
  state.list = found.requests;
  if (before !== JSON.stringify(state.list)) drawList();
  if (!state.list.length) {
    find("request").replaceChildren(made("p", "Nothing waits for you. Jobs that the policy allows come here once policy.yaml says “consent: new”.", { class: "soft" }));
  } else if (state.chosen === null) {
    state.chosen = (state.list.find((each) => each.state === "asked") || state.list[0]).digest;
    drawList();
  }
  await refreshRequest();
  find("live").textContent = `As of ${new Date().toLocaleTimeString()}`;
}

async function turn() {
  try {
    await refresh();
    if (find("error").dataset.of === "live") tell(null); // what a decision was told stays until the next one
  } catch (error) {
    find("live").textContent = "Not up to date";
    if (state.list === null) find("request").replaceChildren(made("p", "Nothing can be shown.", { class: "soft" }));
    tell(error);
    if (error.status === 401) return;
  }
  setTimeout(turn, EVERY_MS);
}

find("more").addEventListener("click", async () => {
  state.most = Math.min(1000, state.most + PAGE);
  try {
    await refresh();
  } catch (error) {
    tell(error);
  }
});
document.addEventListener("keydown", (event) => {
  const on = document.activeElement;
  if (!on || !on.dataset || !on.dataset.digest || !["ArrowDown", "ArrowUp"].includes(event.key)) return;
  const buttons = [...find("list").querySelectorAll("button")];
  const next = buttons[buttons.indexOf(on) + (event.key === "ArrowDown" ? 1 : -1)];
  if (next) { next.focus(); event.preventDefault(); }
});
turn();

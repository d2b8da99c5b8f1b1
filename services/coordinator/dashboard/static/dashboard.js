// Live pages: one event stream tells that something changed, htmx fetches the parts again.
// Without the stream the parts still renew themselves every few seconds (see data-live in the templates).
"use strict";

(() => {
  const dot = document.getElementById("live");
  const stream = document.body.dataset.stream;

  function say(state) {
    if (!dot) return;
    dot.querySelector("i").textContent = state === "live" ? "●" : "◌";
    dot.querySelector("span").textContent = state === "live" ? "live" : "polling";
  }

  function listen() {
    if (!stream || !window.EventSource) return;
    // The browser reconnects by itself and sends the id of the last event it saw.
    const source = new EventSource(stream);
    source.addEventListener("open", () => say("live"));
    source.addEventListener("changed", () => document.body.dispatchEvent(new CustomEvent("live")));
    source.addEventListener("error", () => {
      say("polling");
      if (source.readyState === EventSource.CLOSED) setTimeout(listen, 10000);
    });
    window.addEventListener("pagehide", () => source.close(), { once: true });
  }

  // A renewed part keeps what the reader had opened, and is left alone when nothing in it changed.
  const last = new Map();
  let opened = [];
  let marked = [];
  document.addEventListener("htmx:beforeSwap", (event) => {
    const part = event.detail.target;
    if (event.detail.xhr.status === 401) { window.location.reload(); return; }
    if (last.get(part.id) === event.detail.serverResponse) event.detail.shouldSwap = false;
    last.set(part.id, event.detail.serverResponse);
    marked = [...part.querySelectorAll("input[type=checkbox]:checked")].map((item) => item.value);
    opened = [...part.querySelectorAll("details[open][id]")].map((item) => item.id);
  });
  document.addEventListener("htmx:afterSwap", () => {
    for (const id of opened) document.getElementById(id)?.setAttribute("open", "");
    for (const item of document.querySelectorAll("input[type=checkbox]")) if (marked.includes(item.value)) item.checked = true;
    tick();
  });

  function tick() {
    for (const item of document.querySelectorAll("[data-deadline]")) {
      const left = Math.round((Date.parse(item.dataset.deadline) - Date.now()) / 1000);
      const size = Math.abs(left);
      const text = size < 90 ? `${size} s` : size < 5400 ? `${Math.round(size / 60)} min` : `${(size / 3600).toFixed(1)} h`;
      item.textContent = left >= 0 ? `${text} left` : `${text} over`;
    }
  }

  document.addEventListener("click", async (event) => {
    const button = event.target.closest("[data-copy]");
    if (!button) return;
    const text = document.getElementById(button.dataset.copy).textContent;
    try {
      await navigator.clipboard.writeText(text);
      button.textContent = "Copied";
    } catch {
      const range = document.createRange();
      range.selectNodeContents(document.getElementById(button.dataset.copy));
      getSelection().removeAllRanges();
      getSelection().addRange(range);
      button.textContent = "Selected";
    }
    setTimeout(() => { button.textContent = "Copy"; }, 2000);
  });

  setInterval(tick, 1000);
  tick();
  listen();
})();

"use strict";
(() => {
  const root = document.documentElement;
  root.classList.add("js");

  // Colours: the system's unless chosen. A page opened from a file may have no storage.
  const remember = (value) => { try { localStorage.setItem("cascade-theme", value); } catch { /* not kept */ } };
  const remembered = () => { try { return localStorage.getItem("cascade-theme"); } catch { return null; } };
  const paint = (value) => {
    if (value === "light" || value === "dark") root.dataset.theme = value;
    else delete root.dataset.theme;
  };
  const choices = [...document.querySelectorAll("input[name=theme]")];
  for (const choice of choices) {
    choice.addEventListener("change", () => { paint(choice.value); remember(choice.value); });
  }
  const chosen = choices.find((choice) => choice.value === remembered()) || choices[0];
  chosen.checked = true;
  paint(chosen.value);

  // Steps: each is a tbody of two rows, the second of which is opened by a button in the first.
  const collator = new Intl.Collator("en", { numeric: true });
  const valueOf = (body, column) => body.rows[0].cells[column].dataset.value;

  const sort = (table, head) => {
    const column = head.cellIndex;
    const numeric = head.classList.contains("number");
    const now = head.getAttribute("aria-sort");
    const down = now ? now === "ascending" : numeric;
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const bodies = [...table.tBodies];
    bodies.sort((one, two) => {
      const a = valueOf(one, column), b = valueOf(two, column);
      if (a === "" || b === "") return (a === "") - (b === ""); // unknown comes last, either way
      const order = numeric ? Number(a) - Number(b) : collator.compare(a, b);
      return down ? -order : order;
    });
    table.append(...bodies);
  };

  const filter = (section) => {
    const words = section.querySelector("[data-filter=text]").value.toLowerCase().split(/\s+/).filter(Boolean);
    const outcome = section.querySelector("[data-filter=outcome]").value;
    const bodies = [...section.querySelectorAll("tbody[data-outcome]")];
    let shown = 0;
    for (const body of bodies) {
      const text = body.textContent.toLowerCase();
      const fits = (!outcome || body.dataset.outcome === outcome) && words.every((word) => text.includes(word));
      body.hidden = !fits;
      shown += fits;
    }
    section.querySelector("output").textContent = `${shown} of ${bodies.length} steps`;
  };

  for (const section of document.querySelectorAll("section.steps")) {
    const table = section.querySelector("table");
    if (!table) continue;
    table.tHead.addEventListener("click", (event) => {
      const button = event.target.closest("button");
      if (button) sort(table, button.closest("th"));
    });
    table.addEventListener("click", (event) => {
      const button = event.target.closest("button.open");
      if (!button) return;
      const open = button.getAttribute("aria-expanded") !== "true";
      button.setAttribute("aria-expanded", String(open));
      button.closest("tbody").classList.toggle("is-open", open);
    });
    for (const control of section.querySelectorAll("[data-filter]")) {
      control.addEventListener("input", () => filter(section));
    }
  }
})();

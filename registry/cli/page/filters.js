"use strict";
// A form with data-table hides the rows of that table which don't fit: by the text of a row, and by its data-*.
for (const form of document.querySelectorAll("form.filters")) {
  const rows = [...document.getElementById(form.dataset.table).tBodies[0].rows];
  const texts = rows.map((row) => row.textContent.toLowerCase());
  const shown = form.querySelector("output");
  const filter = () => {
    let count = 0;
    rows.forEach((row, index) => {
      row.hidden = ![...form.elements].every((field) => {
        if (!field.name || !field.value) return true;
        if (field.name === "text") return texts[index].includes(field.value.trim().toLowerCase());
        return row.dataset[field.name] === field.value;
      });
      count += row.hidden ? 0 : 1;
    });
    shown.textContent = `${count} of ${rows.length} shown`;
  };
  form.addEventListener("input", filter);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.hidden = false;
  filter();
}

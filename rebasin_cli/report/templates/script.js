"use strict";
for (const button of document.querySelectorAll(".copy")) {
  button.hidden = false;
  button.addEventListener("click", async () => {
    const command = document.getElementById(button.dataset.copies);
    const range = document.createRange();
    range.selectNodeContents(command);
    getSelection().removeAllRanges();
    getSelection().addRange(range);
    let done = true;
    try {
      await navigator.clipboard.writeText(command.textContent);
    } catch {
      done = document.execCommand("copy");
    }
    button.textContent = done ? "Copied" : "Press Ctrl+C";
    setTimeout(() => { button.textContent = "Copy"; }, 2000);
  });
}
for (const group of document.querySelectorAll("tbody.family")) {
  const fold = group.querySelector(".fold");
  const closed = group.classList.toggle("closed", group.dataset.folded !== undefined);
  fold.setAttribute("aria-expanded", String(!closed));
  fold.addEventListener("click", () => {
    fold.setAttribute("aria-expanded", String(!group.classList.toggle("closed")));
  });
}
function compared(column, sign) {
  const value = (row) => {
    const cell = row.cells[column];
    return cell.dataset.value === undefined ? cell.textContent.trim() : cell.dataset.value === "" ? -Infinity : Number(cell.dataset.value);
  };
  return (one, two) => {
    const [a, b] = [value(one), value(two)];
    if (a === b) return 0;
    return sign * (typeof a === "string" ? a.localeCompare(b, undefined, { numeric: true }) : a < b ? -1 : 1);
  };
}
for (const button of document.querySelectorAll(".sort")) {
  button.addEventListener("click", () => {
    const head = button.closest("th");
    const table = head.closest("table");
    const first = head.classList.contains("words") ? "ascending" : "descending";
    const now = head.getAttribute("aria-sort");
    const next = now === "none" ? first : now === "ascending" ? "descending" : "ascending";
    for (const other of head.parentElement.cells) if (other.hasAttribute("aria-sort")) other.setAttribute("aria-sort", "none");
    head.setAttribute("aria-sort", next);
    const compare = compared(head.cellIndex, next === "ascending" ? 1 : -1);
    for (const group of [...table.tBodies].sort((one, two) => compare(one.rows[0], two.rows[0]))) {
      const [top, ...members] = group.rows;
      group.append(top, ...members.sort(compare));
      table.append(group);
    }
  });
}
let opened = [];
addEventListener("beforeprint", () => {
  opened = [...document.querySelectorAll("details:not([open])")];
  for (const fold of opened) fold.open = true;
});
addEventListener("afterprint", () => {
  for (const fold of opened) fold.open = false;
});

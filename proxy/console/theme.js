// The theme before anything is drawn. No module: it has to run first.
"use strict";
{
  const theme = localStorage.getItem("paretoproxy-theme");
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
}

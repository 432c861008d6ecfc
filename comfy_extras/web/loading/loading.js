// Adds the loading panel to the page's side bar.

import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";
import { LoadingPanel } from "./panel.js";

const STYLE = "ocl-style";

function addStyle() {
  if (document.getElementById(STYLE)) return;
  const link = document.createElement("link");
  link.id = STYLE;
  link.rel = "stylesheet";
  link.href = new URL("./loading.css", import.meta.url).href;
  document.head.append(link);
}

let panel = null;

app.registerExtension({
  name: "onecopy.loading",
  setup() {
    addStyle();
    app.extensionManager.registerSidebarTab({
      id: "onecopy-loading",
      icon: "pi pi-database",
      title: "Loading",
      tooltip: "Model loading: where each weight is",
      type: "custom",
      render(parent) {
        panel ??= new LoadingPanel(api);
        panel.mount(parent);
      },
      destroy() {
        panel?.unmount();
      },
    });
  },
});

// Opens a workflow of the user's in a browser that has none open yet, in place of the page's own first
// graph, whose models are not here. Which one stands in a setting; new users get an example.

import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";

const SETTING = "OneCopy.Welcome.OpenAtStart";

async function stored(name) {
  const response = await api.getUserData(`workflows/${name}.json`);
  return response.status === 200 ? response.json() : undefined;
}

async function firstGraph() {
  const name = app.extensionManager.setting.get(SETTING);
  if (!name) return undefined;
  try {
    const graph = await stored(name);
    return graph && { graph, name };
  } catch (error) {
    console.warn(`The workflow ${name} cannot be opened at the start.`, error);
    return undefined;
  }
}

app.registerExtension({
  name: "onecopy.welcome",
  settings: [
    {
      id: SETTING,
      category: ["OneCopy", "Start", "OpenAtStart"],
      name: "Workflow that opens in a browser with none open",
      tooltip: "Its name in the list of workflows, without .json. Empty: the page's own first graph.",
      type: "text",
      defaultValue: "",
    },
  ],
  setup() {
    const load = app.loadGraphData;
    let isFirst = true;
    app.loadGraphData = async function (graph, ...more) {
      // Without a graph the page wants its own first one; later it is the user who asks for that.
      const mayReplace = isFirst && graph === undefined;
      isFirst = false;
      const found = mayReplace ? await firstGraph() : undefined;
      // By its name the page knows the stored workflow, and opens that.
      if (found) return load.call(this, found.graph, true, true, found.name);
      return load.call(this, graph, ...more);
    };
  },
});

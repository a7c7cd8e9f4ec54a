// node visit.mjs JOB.json: visits a page in headless Chromium and prints as JSON what it shows, step by step.
// Nothing leaves the machine: job.sites maps the beginnings of addresses to folders, and every other address fails.
import { existsSync, readFileSync, statSync } from "node:fs";
import { extname, join } from "node:path";

import { chromium } from "playwright-core";

const job = JSON.parse(readFileSync(process.argv[2], "utf8"));
const types = { ".html": "text/html", ".js": "text/javascript", ".mjs": "text/javascript", ".wasm": "application/wasm", ".json": "application/json" };
const browser = await chromium.launch({ executablePath: job.chromium, args: ["--no-sandbox", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"] });
const context = await browser.newContext({ viewport: { width: job.width ?? 1100, height: 800 }, colorScheme: job.colors ?? "light" });
const seen = { errors: [], failed: [], states: [] };

await context.route("**/*", async (route) => {
  const address = route.request().url().split("?")[0];
  for (const [beginning, folder] of Object.entries(job.sites)) {
    if (!address.startsWith(beginning)) continue;
    const path = join(folder, decodeURIComponent(address.slice(beginning.length)));
    if (!existsSync(path) || !statSync(path).isFile()) break;
    const headers = { ...job.headers, "access-control-allow-origin": "*", "content-type": types[extname(path)] ?? "application/octet-stream" };
    return route.fulfill({ path, headers });
  }
  seen.failed.push(address);
  return route.fulfill({ status: 404, headers: { ...job.headers, "access-control-allow-origin": "*" } });
});

const page = await context.newPage();
page.on("pageerror", (error) => seen.errors.push(String(error)));
page.on("console", (message) => message.type() === "error" && seen.errors.push(message.text()));
const app = () => page.locator("#app").getAttribute("data-state");
const text = (id) => page.locator(id).textContent();
const settle = async (states) => {
  try {
    await page.waitForFunction((wanted) => wanted.includes(document.getElementById("app").dataset.state), states, { timeout: 120000 });
  } catch (error) {
    throw new Error(`never came to be ${states}: ${JSON.stringify(seen)}`, { cause: error });
  }
};

await page.goto(job.page);
seen.states.push(await app());
await settle(["ready", "error"]);
seen.states.push(await app());
seen.status = await text("#status");
seen.text = await text("#text");
seen.isolated = await page.evaluate(() => crossOriginIsolated);
seen.transcripts = [];
for (const clip of job.clips ?? []) {
  await page.setInputFiles("#clip", clip);
  await settle(["ready", "error"]);
  seen.transcripts.push({ state: await app(), status: await text("#status"), text: await text("#text"), time: await text("#time") });
}
if (job.record) {
  // By keyboard alone: the first stop of the Tab key that is a button.
  await page.locator("h1").click();
  for (let i = 0; i < 5 && (await page.evaluate(() => document.activeElement.id)) !== "record"; i++) await page.keyboard.press("Tab");
  await page.keyboard.press("Enter");
  await settle(["recording"]);
  seen.states.push(await app());
  // A busy machine takes its time until the first sound is there.
  await page.waitForFunction(() => /^Recording: [1-9]/.test(document.getElementById("status").textContent));
  await page.keyboard.press("Enter");
  await settle(["ready", "error"]);
  seen.recorded = { state: await app(), status: await text("#status"), text: await text("#text"), time: await text("#time") };
}
seen.rows = await page.locator("tbody tr").allTextContents();
if (job.screenshot) await page.screenshot({ path: job.screenshot, fullPage: true });
await browser.close();
console.log(JSON.stringify(seen));

// node picture.mjs JOB.json: takes pictures of a local page in headless Chromium, in light and in dark, wide and narrow, and
// prints as JSON what a reader would stumble over. The page must need nothing from anywhere: every request is noted, and fails.
import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

import { chromium } from "playwright-core";

const job = JSON.parse(readFileSync(process.argv[2], "utf8"));
const browser = await chromium.launch({ executablePath: job.chromium, args: ["--no-sandbox"], timeout: 0 });
const seen = [];
for (const colorScheme of ["light", "dark"]) {
  for (const width of job.widths) {
    const page = await browser.newPage({ viewport: { width, height: 900 }, colorScheme });
    page.setDefaultTimeout(0); // a test that hangs is ended by its own limit, and a busy machine takes its time
    const found = { colorScheme, width, errors: [], requests: [], picture: `${colorScheme}-${width}.png` };
    page.on("pageerror", (error) => found.errors.push(String(error)));
    page.on("console", (message) => message.type() === "error" && found.errors.push(message.text()));
    await page.route((url) => url.protocol.startsWith("http"), (route) => { found.requests.push(route.request().url()); return route.abort(); });
    await page.goto(pathToFileURL(job.page).href);
    Object.assign(found, await page.evaluate(async () => {
      for (const folded of document.querySelectorAll("details")) folded.open = true;
      const images = [...document.images];
      await Promise.all(images.map((image) => image.decode()));
      const place = ({ x, y, width, height }) => ({ x: x + scrollX, y: y + scrollY, width, height });
      return {
        images: images.map((image) => place(image.getBoundingClientRect())),
        // What is wider than the screen can be read by scrolling the table, never the page.
        pageWidth: document.documentElement.scrollWidth,
        wrong: document.querySelectorAll("ins").length,
      };
    }));
    await page.screenshot({ path: found.picture, fullPage: true });
    await page.close();
    seen.push(found);
  }
}
await browser.close();
console.log(JSON.stringify(seen));

// Asks again and again, one question at a time; not while the page is hidden, and less often while it fails.

const EVERY_MS = 2000;
const SLOWEST_MS = 30000;

/** `ask`: an async function; its errors go to `failed`. `done` after each success. */
export class Poll {
  constructor(ask, done, failed) {
    Object.assign(this, { ask, done, failed, running: false, asking: false, again: false, wait: EVERY_MS, timer: 0 });
    document.addEventListener("visibilitychange", () => this.visible());
  }

  start() {
    this.running = true;
    this.now();
  }

  stop() {
    this.running = false;
    clearTimeout(this.timer);
  }

  visible() {
    if (document.hidden) clearTimeout(this.timer);
    else if (this.running) this.now();
  }

  /** Ask at once; where an answer is awaited, once more after it. */
  async now() {
    clearTimeout(this.timer);
    if (this.asking) {
      this.again = true;
      return;
    }
    this.asking = true;
    this.again = false;
    try {
      await this.ask();
      this.wait = EVERY_MS;
      this.done();
    } catch (error) {
      this.wait = Math.min(SLOWEST_MS, this.wait * 2);
      this.failed(error);
    } finally {
      this.asking = false;
    }
    if (!this.running) return;
    if (this.again) this.now();
    else if (!document.hidden) this.timer = setTimeout(() => this.now(), this.wait);
  }
}

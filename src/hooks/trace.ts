/** Spans of JavaScript work, for the timeline. Off: nothing is recorded and nothing is allocated. */
export interface TraceSpan {
  name: string;
  category: string;
  /** Nanoseconds of the monotonic clock, the same clock that engine works use. */
  startNs: number;
  endNs: number;
}

export class Tracer {
  readonly #spans: TraceSpan[] = [];
  readonly #limit: number;

  /** @param limit spans kept; recording stops there, so that a long run cannot fill memory */
  constructor(limit = 65_536) {
    this.#limit = limit;
  }

  /** Starts a span; call the result to end it. */
  begin(category: string, name: string): () => void {
    const startNs = Number(process.hrtime.bigint());
    return () => {
      if (this.#spans.length >= this.#limit) return;
      this.#spans.push({ name, category, startNs, endNs: Number(process.hrtime.bigint()) });
    };
  }

  take(): TraceSpan[] {
    return this.#spans.splice(0);
  }
}

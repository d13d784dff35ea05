/**
 * Loops of the script's own over `optimizer.minimize` or `variableGrads` and `applyGradients`. Their batch
 * is invisible: every rank computes all of it, and the same. `shard(batch)` splits it, and the next
 * gradients are averaged over the ranks.
 */
import { DeepSpeedError } from '../../errors.ts';
import { type HostContext, numberOf, sliceRows } from './context.ts';
import type { Engine, Tensor, Variable } from './library.ts';
import { type Rows, rowsOfRank } from './rows.ts';

type Gradients = Engine['gradients'];

/** What `shard` takes and gives: a tensor, an array, or any nesting of them. */
export type Shardable = Tensor | readonly unknown[] | { readonly [name: string]: unknown };

export class Loops {
  readonly #context: HostContext;
  /** True while a model's own train function asks for gradients: those are not a loop's. */
  readonly #elsewhere: () => boolean;
  #steps = 0;
  #sharded: { rows: Rows; weight: number; digest: number } | null = null;

  constructor(context: HostContext, elsewhere: () => boolean) {
    this.#context = context;
    this.#elsewhere = elsewhere;
  }

  /** Replaces the engine's one entry to gradients of variables. */
  patch(engine: Engine): void {
    const prototype = Object.getPrototypeOf(engine) as Engine;
    const original = prototype.gradients;
    const loops = this;
    prototype.gradients = function (this: Engine, f, xs, dy, allow) {
      const run: Gradients = (...args) => original.apply(this, args);
      const ofVariables = xs.length > 0 && typeof (xs[0] as Variable).name === 'string';
      if (!ofVariables || loops.#elsewhere()) return run(f, xs, dy, allow);
      return loops.#gradients(run, f, xs as Variable[], dy, allow);
    };
  }

  /** This rank's rows of a batch; the gradients that come next are those of the whole batch. */
  shard<T>(batch: T): T {
    const { core, worldSize, agreement } = this.#context;
    if (worldSize === 1) return batch;
    const cut = (value: unknown): unknown => {
      if (isTensor(value)) {
        const rows = this.#begin(value.shape[0] ?? 0);
        this.#sharded!.digest = agreement.digest([value], this.#sharded!.digest);
        // With fewer rows than ranks each computes all of them: an empty part has no mean.
        return rows.total < worldSize ? value : sliceRows(core, value, rows);
      }
      if (Array.isArray(value) || ArrayBuffer.isView(value)) {
        const list = value as unknown as { length: number; slice(a: number, b: number): unknown };
        if (Array.isArray(value) && value.some(isTensor)) return value.map(cut);
        const rows = this.#begin(list.length);
        this.#sharded!.digest = digestOf(this.#context, value, this.#sharded!.digest);
        if (rows.total < worldSize) return value;
        return list.slice(rows.start, rows.start + rows.count);
      }
      if (typeof value === 'object' && value !== null) {
        return Object.fromEntries(Object.entries(value).map(([name, one]) => [name, cut(one)]));
      }
      throw new DeepSpeedError('TFJS_UNSUPPORTED', `shard() got ${typeof value}`, {
        fix: 'Give it tensors or arrays whose first axis is the batch.',
      });
    };
    return cut(batch) as T;
  }

  #begin(total: number): Rows {
    const { rank, worldSize } = this.#context;
    const known = this.#sharded;
    if (!known) {
      const rows = rowsOfRank(total, rank, worldSize);
      const weight = total < worldSize ? 1 / worldSize : rows.count / total;
      this.#sharded = { rows, weight, digest: 0 };
      return rows;
    }
    if (known.rows.total !== total) {
      throw new DeepSpeedError(
        'TFJS_UNSUPPORTED',
        `shard() got ${known.rows.total} rows and then ${total}, before any gradients`,
        { fix: 'All parts of one batch have the same number of rows.' },
      );
    }
    return known.rows;
  }

  #gradients(run: Gradients, f: () => Tensor, xs: Variable[], dy: Tensor | null, allow?: boolean) {
    const context = this.#context;
    if (context.worldSize === 1) return run(f, xs, dy, allow);
    this.#refuseConfig();
    this.#steps += 1;
    const sharded = this.#sharded;
    this.#sharded = null;
    if (!sharded) {
      context.say(
        'a loop over optimizer.minimize or applyGradients shows no batch: every rank computes all of it, which is correct and no faster. shard(batch) from deepspeed-js/tfjs splits it.',
      );
      const result = run(f, xs, dy, allow);
      this.#agree(0, context.agreement.digest([result.value]));
      return result;
    }
    this.#agree(sharded.rows.total, sharded.digest);
    return this.#averaged(run, f, xs, dy, allow, sharded);
  }

  #agree(rows: number, digest: number): void {
    this.#context.agreement.on({
      what: `gradients ${this.#steps} of the script's own loop`,
      rows,
      digest,
    });
  }

  /** A config promises what only the native optimizer does. */
  #refuseConfig(): void {
    const config = this.#context.run?.deepspeedConfig;
    if (config == null) return;
    throw new DeepSpeedError(
      'TFJS_UNSUPPORTED',
      "the script's own loop over gradients cannot follow a DeepSpeed config: its optimizer is TensorFlow.js's, whole on every rank",
      {
        fix: 'Start without --deepspeed, train with model.fit, or use initialize from deepspeed-js.',
      },
    );
  }

  #averaged(
    run: Gradients,
    f: () => Tensor,
    xs: Variable[],
    dy: Tensor | null,
    allow: boolean | undefined,
    { rows, weight }: { rows: Rows; weight: number },
  ): ReturnType<Gradients> {
    const context = this.#context;
    const { core, worldSize } = context;
    const whole = rows.total < worldSize;
    const pass = {
      rows: whole ? { start: 0, count: rows.total, total: rows.total } : rows,
      exact: false,
    };
    const local = () => context.during(pass, () => run(() => core.mul(f(), weight), xs, dy, allow));
    const { value, grads } = whole ? local() : context.streams.locally(local);
    const sums = new Float32Array(1 + xs.reduce((sum, { size }) => sum + size, 0));
    sums[0] = numberOf(value);
    let at = 1;
    for (const [index, { size }] of xs.entries()) {
      const gradient = grads[index];
      if (gradient) sums.set(gradient.dataSync(), at);
      at += size;
    }
    context.runtime.communicator.allReduce(sums);
    value.dispose();
    at = 1;
    const averaged = xs.map(({ size, shape }, index) => {
      const from = at;
      at += size;
      if (!grads[index]) return undefined;
      grads[index].dispose();
      return core.tensor(sums.slice(from, from + size), shape);
    });
    return { value: core.scalar(sums[0]!), grads: averaged };
  }
}

function isTensor(value: unknown): value is Tensor {
  return typeof (value as Tensor | null)?.dataSync === 'function';
}

function digestOf(context: HostContext, values: unknown, seed: number): number {
  const { agreement } = context;
  return ArrayBuffer.isView(values)
    ? agreement.bytes(values, seed)
    : agreement.bytes(Buffer.from(JSON.stringify(values)), seed);
}

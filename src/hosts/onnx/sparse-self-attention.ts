import { DeepSpeedError } from '../../errors.ts';
import {
  type DataType,
  elementSize,
  encodeModel,
  type Graph,
  GraphBuilder,
  numel,
} from '../../graph/index.ts';
import type { AttentionBlocks } from '../../hooks/index.ts';
import {
  type InstanceId,
  loadAddon,
  type NativeBuffer,
  type NativeEngine,
  type SessionId,
} from '../../native/index.ts';
import { findOrtLibrary } from '../../native/ort-library.ts';

/** float32 [batch, heads, length, width], row-major. */
export interface AttentionTensor {
  data: Float32Array;
  dims: readonly [number, number, number, number];
}

/** What one attention reads: key and value may have fewer heads, each for a group of the query's. */
export interface AttentionInputs {
  query: AttentionTensor;
  key: AttentionTensor;
  value: AttentionTensor;
  /** Of batch × length elements: 0 hides a key. */
  keyPaddingMask?: ArrayLike<number>;
}

/** A layout class, or anything that makes layouts: `new FixedSparsityConfig({ num_heads: 8 })`. */
export interface LayoutMaker {
  /** The blocks that are computed of a sequence of this length. */
  makeLayout(length: number): AttentionBlocks & AttendingRows;
}

/** A layout that can be checked. */
export interface AttendingRows {
  /** Throws where a row of blocks attends to nothing. */
  requireAttendingRows(options: { causal: boolean }): void;
}

/** How a `SparseSelfAttention` computes. */
export interface SparseSelfAttentionOptions {
  /** Queries do not see keys behind them. Default false. */
  causal?: boolean;
  /** Default: the cores that this process may use. */
  threads?: number;
}

/**
 * softmax(QKᵀ/√width)·V over the blocks of a layout, forward and backward: DeepSpeed's class of this name, on
 * arrays, with the operator that training uses. The layout is made for the length at hand. Needs ONNX Runtime. `dispose()` frees the engine.
 *
 * @example
 * const attention = new SparseSelfAttention(new FixedSparsityConfig({ num_heads: 8 }), { causal: true });
 * const { data } = await attention.forward({ query, key, value });
 */
export class SparseSelfAttention {
  readonly #sparsity: LayoutMaker;
  readonly #causal: boolean;
  readonly #engine: NativeEngine;
  #programs: Programs | undefined;

  constructor(sparsity: LayoutMaker, options: SparseSelfAttentionOptions = {}) {
    this.#sparsity = sparsity;
    this.#causal = options.causal ?? false;
    const addon = loadAddon();
    this.#engine = addon.createEngine({
      communicator: addon.createCommunicator({ backend: 'solo' }),
      threads: options.threads ?? Math.max(1, Math.floor(addon.systemLimits().cores)),
      ortLibrary: findOrtLibrary().path,
    });
  }

  /** @throws SHAPE_MISMATCH, LAYOUT_INVALID where the length does not fit the layout */
  async forward(inputs: AttentionInputs): Promise<AttentionTensor> {
    const programs = this.#programsFor(inputs);
    const { query, key, value, keyPaddingMask } = inputs;
    programs.write('q', query.data);
    programs.write('k', key.data);
    programs.write('v', value.data);
    if (keyPaddingMask)
      programs.write(
        'mask',
        Uint8Array.from(keyPaddingMask, (m) => (m ? 1 : 0)),
      );
    await this.#engine.wait(this.#engine.run(programs.forward));
    return { data: programs.read('y'), dims: query.dims };
  }

  /** Gradients of the last forward's inputs from that of its result. */
  async backward(
    gradient: Float32Array,
  ): Promise<Omit<Required<AttentionInputs>, 'keyPaddingMask'>> {
    const programs = this.#programs;
    if (!programs) throw mismatch('backward() needs a forward() before it');
    if (gradient.length !== numel(programs.rows)) {
      throw mismatch(
        `the gradient has ${gradient.length} elements, the result ${numel(programs.rows)}`,
      );
    }
    programs.write('dy', gradient);
    await this.#engine.wait(this.#engine.run(programs.backward));
    return {
      query: { data: programs.read('dq'), dims: programs.rows },
      key: { data: programs.read('dk'), dims: programs.keyRows },
      value: { data: programs.read('dv'), dims: programs.keyRows },
    };
  }

  /** Frees the engine and its memory. */
  dispose(): void {
    this.#engine.dispose();
  }

  /** Compiled for the shapes at hand; those of earlier shapes are given up. */
  #programsFor({ query, key, value, keyPaddingMask }: AttentionInputs): Programs {
    const [batch, heads, length, width] = query.dims;
    const keyRows = [batch, key.dims[1], length, width] as const;
    for (const [name, { data, dims }, expected] of [
      ['query', query, query.dims],
      ['key', key, keyRows],
      ['value', value, keyRows],
    ] as const) {
      if (dims.join() === expected.join() && data.length === numel(dims)) continue;
      throw mismatch(
        `${name} [${dims.join(', ')}] of ${data.length} elements, where [${expected.join(', ')}] is needed`,
      );
    }
    if (heads % key.dims[1] !== 0) throw mismatch(`${heads} heads for ${key.dims[1]} key heads`);
    if (keyPaddingMask && keyPaddingMask.length !== batch * length) {
      throw mismatch(
        `keyPaddingMask has ${keyPaddingMask.length} elements for ${batch} x ${length} keys`,
      );
    }
    const wanted = `${query.dims} ${keyRows} ${keyPaddingMask !== undefined}`;
    if (this.#programs?.key === wanted) return this.#programs;
    const layout = this.#sparsity.makeLayout(length);
    if (layout.heads.length !== heads) {
      throw mismatch(`the layout has ${layout.heads.length} heads, the query ${heads}`);
    }
    layout.requireAttendingRows({ causal: this.#causal });
    this.#programs?.dispose();
    this.#programs = new Programs(this.#engine, wanted, query.dims, keyRows, {
      blocks: layout,
      causal: this.#causal,
      masked: keyPaddingMask !== undefined,
    });
    return this.#programs;
  }
}

function mismatch(what: string): DeepSpeedError {
  return new DeepSpeedError('SHAPE_MISMATCH', `SparseSelfAttention: ${what}`, {
    fix: 'Give query, key and value as [batch, heads, length, width] of one batch, length and width.',
  });
}

type Rows = AttentionTensor['dims'];

/** Both passes bound to memory of one shape. */
class Programs {
  readonly key: string;
  readonly rows: Rows;
  readonly keyRows: Rows;
  readonly forward: InstanceId;
  readonly backward: InstanceId;
  readonly #engine: NativeEngine;
  readonly #sessions: SessionId[] = [];
  readonly #values = new Map<string, { buffer: NativeBuffer; dtype: DataType; dims: number[] }>();

  constructor(
    engine: NativeEngine,
    key: string,
    rows: Rows,
    keyRows: Rows,
    options: { blocks: AttentionBlocks; causal: boolean; masked: boolean },
  ) {
    this.#engine = engine;
    this.key = key;
    this.rows = rows;
    this.keyRows = keyRows;
    const [batch, heads, length, width] = rows;
    const { blocks, causal, masked } = options;
    const count = Math.ceil(length / blocks.block);
    for (const name of ['q', 'y', 'dy', 'dq']) this.#allocate(name, 'float32', [...rows]);
    for (const name of ['k', 'v', 'dk', 'dv']) this.#allocate(name, 'float32', [...keyRows]);
    this.#allocate('lse', 'float32', [batch, heads, length]);
    this.#allocate('blocks', 'bool', [heads, count, count]);
    this.write('blocks', Uint8Array.from(blocks.heads.flatMap((bitmap) => [...bitmap])));
    if (masked) this.#allocate('mask', 'bool', [batch, length]);
    const attributes = {
      layout: 'bhsd',
      heads,
      kv_heads: keyRows[1],
      scale: 1 / Math.sqrt(width),
      causal: causal ? 1 : 0,
      block: blocks.block,
    };
    // bias, keyMask, cos, sin, rng, training, blocks
    const rest = [undefined, masked ? 'mask' : undefined, ...Array(4).fill(undefined), 'blocks'];
    const compile = (opType: string, inputs: (string | undefined)[], outputs: string[]) => {
      const b = new GraphBuilder(opType);
      const names = inputs.map(
        (name) => name && b.input(name, this.#dtype(name), this.#dims(name)),
      );
      const results = b.ops(opType, names, outputs.length, attributes, { domain: 'deepspeed' });
      results.forEach((result, i) => {
        b.output(result, 'float32', this.#dims(outputs[i]!));
      });
      const graph = b.build();
      const session = engine.loadSession(modelOf(graph), { name: opType });
      this.#sessions.push(session);
      const bind = (formal: string, name: string) => {
        const { buffer, dtype, dims } = this.#values.get(name)!;
        return { name: formal, buffer, byteOffset: 0, dtype, dims };
      };
      const given = inputs.filter((name) => name !== undefined);
      return engine.createInstance(
        session,
        given.map((name) => bind(name, name)),
        results.map((result, i) => bind(result, outputs[i]!)),
      );
    };
    this.forward = compile('Attention', ['q', 'k', 'v', ...rest], ['y', 'lse']);
    this.backward = compile(
      'AttentionGrad',
      ['dy', 'q', 'k', 'v', 'y', 'lse', ...rest],
      ['dq', 'dk', 'dv'],
    );
  }

  write(name: string, data: Float32Array | Uint8Array): void {
    const bytes = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
    new Uint8Array(this.#values.get(name)!.buffer.view()).set(bytes);
  }

  /** A copy. */
  read(name: string): Float32Array {
    const { buffer, dims } = this.#values.get(name)!;
    return new Float32Array(buffer.view(), 0, numel(dims)).slice();
  }

  dispose(): void {
    for (const instance of [this.forward, this.backward]) this.#engine.releaseInstance(instance);
    for (const session of this.#sessions) this.#engine.releaseSession(session);
    for (const { buffer } of this.#values.values()) buffer.dispose();
  }

  #allocate(name: string, dtype: DataType, dims: number[]): void {
    const bytes = Math.max(64, numel(dims) * elementSize(dtype));
    const buffer = this.#engine.allocate(bytes, { category: 'activations', name });
    this.#values.set(name, { buffer, dtype, dims });
  }

  #dtype(name: string): DataType {
    return this.#values.get(name)!.dtype;
  }

  #dims(name: string): number[] {
    return this.#values.get(name)!.dims;
  }
}

function modelOf(graph: Graph): Uint8Array {
  const opsets = new Map([
    ['', 21],
    ['deepspeed', 1],
  ]);
  const metadata = new Map<string, string>();
  return encodeModel({ irVersion: 10, producerName: 'deepspeed-js', opsets, graph, metadata });
}

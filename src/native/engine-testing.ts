/** For tests: engines, and graphs bound to engine memory. */
import { encodeModel, type Graph, numel, type Tensor, toNumbers } from '../graph/index.ts';
import { elementSize } from '../graph/tensor.ts';
import type {
  Binding,
  InstanceId,
  NativeBuffer,
  NativeEngine,
  SessionId,
  SessionOptions,
} from './contract.ts';
import { loadAddon } from './load.ts';
import { findOrtLibrary } from './ort-library.ts';

/** An engine of one rank alone with ONNX Runtime. The caller disposes it. */
export function soloEngine(threads = 2): NativeEngine {
  const addon = loadAddon();
  const communicator = addon.createCommunicator({ backend: 'solo' });
  return addon.createEngine({ communicator, threads, ortLibrary: findOrtLibrary().path });
}

/** The graph as an ONNX file, with the operator sets that the engine runs. */
export function modelBytes(graph: Graph): Uint8Array {
  return encodeModel({
    irVersion: 10,
    producerName: 'deepspeed-js tests',
    opsets: new Map([
      ['', 21],
      ['com.microsoft', 1],
      ['deepspeed', 1],
    ]),
    graph,
    metadata: new Map(),
  });
}

/** A graph with memory of its own for every input and output; shapes must be concrete. */
export class BoundGraph {
  readonly session: SessionId;
  readonly instance: InstanceId;
  private readonly engine: NativeEngine;
  private readonly tensors = new Map<string, { binding: Binding; dtype: Tensor['dtype'] }>();

  constructor(engine: NativeEngine, graph: Graph, options: Omit<SessionOptions, 'name'> = {}) {
    this.engine = engine;
    this.session = engine.loadSession(modelBytes(graph), { name: graph.name, ...options });
    const bind = ({ name, dtype, shape }: Graph['inputs'][number]): Binding => {
      const dims = (shape ?? []).map((dim) => {
        if (typeof dim === 'string') throw new Error(`${name} has the symbolic dimension ${dim}`);
        return dim;
      });
      const buffer = engine.allocate(numel(dims) * elementSize(dtype), { category: 'activations' });
      const binding: Binding = { name, buffer, byteOffset: 0, dtype, dims };
      this.tensors.set(name, { binding, dtype });
      return binding;
    };
    this.instance = engine.createInstance(
      this.session,
      graph.inputs.map(bind),
      graph.outputs.map(bind),
    );
  }

  buffer(name: string): NativeBuffer {
    return this.tensors.get(name)!.binding.buffer;
  }

  write(name: string, tensor: Tensor): void {
    new Uint8Array(this.buffer(name).view()).set(tensor.data);
  }

  /** A copy of what the memory of an input or output holds now. */
  read(name: string): Tensor {
    const { binding, dtype } = this.tensors.get(name)!;
    return { dtype, dims: binding.dims, data: new Uint8Array(binding.buffer.view()).slice() };
  }

  numbers(name: string): number[] {
    return toNumbers(this.read(name));
  }

  async run(feeds: Record<string, Tensor> = {}): Promise<void> {
    for (const [name, tensor] of Object.entries(feeds)) this.write(name, tensor);
    await this.engine.wait(this.engine.run(this.instance));
  }

  dispose(): void {
    this.engine.releaseInstance(this.instance);
    this.engine.releaseSession(this.session);
    for (const { binding } of this.tensors.values()) binding.buffer.dispose();
  }
}

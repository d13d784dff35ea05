/**
 * A product of fp32 matrices on the engine: gemm_engine.ts deepspeed-js|onnxruntime THREADS. Answers
 * `TRANS M N K REPEAT` with the seconds of one product, by the operator `deepspeed.MatMul` or by ONNX
 * Runtime's own. A process of its own for each number of threads: the first engine's pool is the one that
 * ONNX Runtime shares.
 */
import { createInterface } from 'node:readline';
import { encodeModel, GraphBuilder } from '../../src/graph/index.ts';
import { type InstanceId, loadAddon, type SessionId } from '../../src/native/index.ts';
import { findOrtLibrary } from '../../src/native/ort-library.ts';
import { timed } from '../lib.ts';

const [subject, threads] = [process.argv[2]!, Number(process.argv[3])];
const addon = loadAddon();
const communicator = addon.createCommunicator({ backend: 'solo' });
const engine = addon.createEngine({ communicator, threads, ortLibrary: findOrtLibrary().path });

interface Product {
  key: string;
  session: SessionId;
  instance: InstanceId;
  dispose(): void;
}
let product: Product | undefined;

function prepare(key: string): Product {
  const [trans, ...sizes] = key.split(' ');
  const [M, N, K] = sizes.map(Number) as [number, number, number];
  const [transA, transB] = [trans![0] === 't' ? 1 : 0, trans![1] === 't' ? 1 : 0];
  const b = new GraphBuilder(`product ${key}`);
  const dims = { A: transA ? [K, M] : [M, K], B: transB ? [N, K] : [K, N], Y: [M, N] };
  const inputs = [b.input('A', 'float32', dims.A), b.input('B', 'float32', dims.B)];
  const own = subject === 'deepspeed-js';
  const plain = !own && transA + transB === 0;
  const type = own || plain ? 'MatMul' : 'FusedMatMul';
  const domain = own ? 'deepspeed' : plain ? '' : 'com.microsoft';
  const [y] = b.ops(type, inputs, 1, plain ? {} : { transA, transB }, { domain });
  b.output(y!, 'float32', dims.Y);
  const graph = b.build();
  const opsets = new Map([
    ['', 21],
    ['com.microsoft', 1],
    ['deepspeed', 1],
  ]);
  const model = { irVersion: 10, producerName: 'bench', opsets, graph, metadata: new Map() };
  const session = engine.loadSession(encodeModel(model), { name: graph.name });
  const bind = (name: string, [rows, columns]: number[]) => {
    const buffer = engine.allocate(4 * rows! * columns!, { category: 'activations' });
    // Not all alike: fp32 that bf16 holds exactly leaves tile registers zeros to multiply.
    const values = new Float32Array(buffer.view());
    for (let i = 0; i < values.length; i++) values[i] = 2 * Math.random() - 1;
    return { name, buffer, byteOffset: 0, dtype: 'float32' as const, dims: [rows!, columns!] };
  };
  const operands = [bind(graph.inputs[0]!.name, dims.A), bind(graph.inputs[1]!.name, dims.B)];
  const results = [bind(graph.outputs[0]!.name, dims.Y)];
  const instance = engine.createInstance(session, operands, results);
  const dispose = () => {
    engine.releaseInstance(instance);
    engine.releaseSession(session);
    for (const { buffer } of [...operands, ...results]) buffer.dispose();
  };
  return { key, session, instance, dispose };
}

console.log('ready');
for await (const line of createInterface({ input: process.stdin })) {
  const [, key, repeat] = /^(\w\w \d+ \d+ \d+) (\d+)$/.exec(line)!;
  if (product?.key !== key) {
    product?.dispose();
    product = prepare(key!);
  }
  const { instance } = product!;
  const seconds = await timed(() => {
    // One after the other on the compute queue, as the products of a step are.
    let last = engine.run(instance);
    for (let i = 1; i < Number(repeat); i++) last = engine.run(instance);
    engine.waitSync(last);
  });
  console.log(seconds / Number(repeat));
}
engine.dispose();

/** What of a user's graph can be trained, and which graphs cannot. */
import { DeepSpeedError } from '../../errors.ts';
import {
  consumersOf,
  type Graph,
  type Node,
  numel,
  removeDead,
  type Tensor,
  typedView,
} from '../../graph/index.ts';

/**
 * The part of a model's graph that computes `outputs`, if it is one that can be trained.
 *
 * @param path of the file, for messages
 * @throws GRAPH_INVALID for an output that does not exist; GRAPH_NOT_TRAINABLE for graphs that were
 *   made for inference only: quantised, with a cache as input, or branching
 */
export function requireTrainable(graph: Graph, outputs: readonly string[], path: string): Graph {
  const wanted = outputs.map((name) => requireOutput(graph, name, path));
  const needed = removeDead({ ...graph, outputs: wanted });
  const read = new Set(needed.nodes.flatMap((node) => node.inputs));
  const inputs = needed.inputs.filter(
    ({ name }) => read.has(name) && !graph.initializers.has(name),
  );
  const cache = inputs.find(({ name }) => /^(past|cache)[._]|past_key|use_cache_branch/.test(name));
  if (cache) {
    throw new DeepSpeedError(
      'GRAPH_NOT_TRAINABLE',
      `${path} computes with a key/value cache (input '${cache.name}'): it makes one token after the other`,
      {
        fix: 'Export the model without cache inputs: `optimum-cli export onnx --task text-generation` (not text-generation-with-past), or torch.onnx.export with use_cache=False.',
        data: { input: cache.name },
      },
    );
  }
  for (const node of needed.nodes) requireTrainableNode(node, path);
  for (const [name, { dtype }] of needed.initializers) {
    if (!['float16', 'bfloat16', 'float64'].includes(dtype)) continue;
    if (numel(needed.initializers.get(name)!.dims) <= 1) continue;
    throw new DeepSpeedError(
      'GRAPH_NOT_TRAINABLE',
      `${path} holds its weights as ${dtype} ('${name}'); training starts from float32 weights`,
      {
        fix: 'Export the model in float32, for example with model.float() before torch.onnx.export; bf16 and fp16 training are keys of the config.',
        data: { initializer: name },
      },
    );
  }
  return { ...needed, inputs };
}

function requireOutput(graph: Graph, name: string, path: string): Graph['outputs'][number] {
  const found = graph.outputs.find((output) => output.name === name);
  if (found) return found;
  const known = graph.outputs.map((output) => `'${output.name}'`).join(', ');
  throw new DeepSpeedError('GRAPH_INVALID', `${path} has no output '${name}'`, {
    fix: `Choose among its outputs: ${known}.`,
    data: { output: name },
  });
}

const quantised =
  /^(QLinear|QGemm|QAttention|QMoE|DynamicQuantize|MatMulNBits|MatMulBnb4|MatMulInteger|ConvInteger|Gather.*Quantized|DequantizeLinear|QuantizeLinear)/;
const branching = new Set(['If', 'Loop', 'Scan', 'SequenceMap']);

function requireTrainableNode({ opType, name }: Node, path: string): void {
  if (quantised.test(opType)) {
    throw new DeepSpeedError(
      'GRAPH_NOT_TRAINABLE',
      `${path} is quantised (node '${name}', ${opType}): its weights are integers, which have no gradient`,
      {
        fix: 'Use the float32 export of the model (model.onnx, not model_quantized.onnx, model_q4.onnx and the like); quantise after training.',
        data: { node: name, op: opType },
      },
    );
  }
  if (branching.has(opType)) {
    throw new DeepSpeedError(
      'GRAPH_NOT_TRAINABLE',
      `${path} branches or loops (node '${name}', ${opType}), which has no gradient here`,
      {
        fix: 'Export without control flow: `model.onnx` instead of `decoder_model_merged.onnx`, torch.onnx.export of a module without data-dependent if and for.',
        data: { node: name, op: opType },
      },
    );
  }
}

/**
 * Gives each Identity of an initializer a tensor of its own. PyTorch's exporter merges parameters that
 * are equal when it runs, such as all fresh normalisation weights, into one with aliases; training
 * would then tie them.
 */
export function separateAliases(graph: Graph): Graph {
  const initializers = new Map(graph.initializers);
  const nodes = graph.nodes.filter((node) => {
    const tensor = initializers.get(node.inputs[0] ?? '');
    if (node.opType !== 'Identity' || node.domain !== '' || tensor?.dtype !== 'float32')
      return true;
    if (graph.outputs.some(({ name }) => name === node.outputs[0])) return true;
    initializers.set(node.outputs[0]!, tensor);
    return false;
  });
  return { ...graph, nodes, initializers };
}

/**
 * Float32 initializers that look like parameters: all but single numbers, masks (which hold numbers
 * beyond any weight) and tables of rotary frequencies (which only sines and cosines read).
 */
export function likelyParameters(graph: Graph): string[] {
  const consumers = consumersOf(graph);
  return [...graph.initializers].flatMap(([name, tensor]) => {
    if (tensor.dtype !== 'float32' || numel(tensor.dims) <= 1) return [];
    return isMask(tensor) || onlyAngles(name, consumers) ? [] : [name];
  });
}

/** Masks are added to scores as -Infinity or the lowest float. */
const beyondWeights = 1e30;

function isMask(tensor: Tensor): boolean {
  return (typedView(tensor) as Float32Array).some((value) => !(Math.abs(value) < beyondWeights));
}

/** Operators between frequencies and the angles' sine. */
const shaping = new Set([
  'Identity',
  'Cast',
  'Reshape',
  'Unsqueeze',
  'Squeeze',
  'Expand',
  'Transpose',
  'Concat',
  'Mul',
  'MatMul',
]);

function onlyAngles(value: string, consumers: ReadonlyMap<string, Node[]>): boolean {
  const readers = consumers.get(value) ?? [];
  return (
    readers.length > 0 &&
    readers.every(
      ({ opType, outputs }) =>
        opType === 'Sin' ||
        opType === 'Cos' ||
        (shaping.has(opType) && onlyAngles(outputs[0]!, consumers)),
    )
  );
}

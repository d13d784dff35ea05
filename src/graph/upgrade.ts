/** Older spellings of operators in that of opset 21, which everything after loading speaks. */
import { DeepSpeedError } from '../errors.ts';
import { intsAttribute } from './attributes.ts';
import type { Graph, Model, Node, Tensor } from './ir.ts';
import { fromNumbers } from './tensor.ts';

/** Before it, Softmax flattened its input, and shape operators kept their operands in attributes. */
const oldestOpset = 13;

/** Since opset 18 their axes are an input; ReduceSum's are since 13. */
const reductions = new Set([
  'ReduceL1',
  'ReduceL2',
  'ReduceLogSum',
  'ReduceLogSumExp',
  'ReduceMax',
  'ReduceMean',
  'ReduceMin',
  'ReduceProd',
  'ReduceSumSquare',
]);

/**
 * The model's graph as opset 21 writes it. A model of opset 18 or later comes back as it is.
 *
 * @throws NOT_AVAILABLE_YET for a model older than opset 13
 */
export function upgradeOpset(model: Model): Graph {
  const opset = model.opsets.get('') ?? oldestOpset;
  if (opset < oldestOpset) {
    throw new DeepSpeedError(
      'NOT_AVAILABLE_YET',
      `the model uses operator set ${opset}; ${oldestOpset} is the oldest that can be trained`,
      { fix: 'Export it again with opset_version 17, or convert it with onnx.version_converter.' },
    );
  }
  const { graph } = model;
  if (opset >= 18) return graph;
  const constants = new Map<string, Tensor>();
  const nodes = graph.nodes.map((node) => upgradeNode(node, constants));
  return { ...graph, nodes, initializers: new Map([...graph.initializers, ...constants]) };
}

function upgradeNode(node: Node, constants: Map<string, Tensor>): Node {
  if (node.domain !== '') return node;
  const axes = intsAttribute(node, 'axes');
  if (reductions.has(node.opType) && axes !== undefined) {
    const name = `upgrade/axes[${axes}]`;
    constants.set(name, fromNumbers('int64', [axes.length], axes));
    const { axes: _, ...attributes } = node.attributes;
    return { ...node, inputs: [node.inputs[0]!, name], attributes };
  }
  if (node.opType === 'Split' && !node.inputs[1]) {
    const num_outputs = { type: 'int', value: node.outputs.length } as const;
    return { ...node, attributes: { ...node.attributes, num_outputs } };
  }
  return node;
}

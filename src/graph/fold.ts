/** Constant folding: nodes whose outputs are known before the graph runs become initializers. */
import type { Graph } from './ir.ts';
import { type InferOptions, inferTypes } from './shapes/infer.ts';
import { writesOf } from './topology.ts';

export interface FoldOptions extends InferOptions {
  /** Results larger than this many bytes stay computed: recomputing them costs less than storing. */
  maxBytes?: number;
}

/**
 * A graph in which every node with constant outputs is gone and those outputs are initializers. The
 * result holds for the given input shapes only, because a Shape is constant once its input's shape is
 * known. Initializers that training changes must be in `variables`: nothing computed from them is
 * folded. Throws as inferTypes does.
 */
export function foldConstants(graph: Graph, options: FoldOptions = {}): Graph {
  const types = inferTypes(graph, options);
  const maxBytes = options.maxBytes ?? 2 ** 20;
  const initializers = new Map(graph.initializers);
  const nodes = graph.nodes.filter((node) => {
    const outputs = writesOf(node);
    const constants = outputs.map((name) => types.get(name)!.constant);
    const foldable = constants.every(
      (constant) => constant !== undefined && constant.data.length <= maxBytes,
    );
    if (!foldable) return true;
    for (const [i, name] of outputs.entries()) initializers.set(name, constants[i]!);
    return false;
  });
  return { ...graph, nodes, initializers };
}

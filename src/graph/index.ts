/** ONNX in, ONNX out: what the other rooms use of the graph. */
export { attribute, type PlainAttribute } from './attributes.ts';
export { GraphBuilder, type OpOptions } from './builder.ts';
export { checkGraph } from './check.ts';
export { decodeModel, encodeModel } from './codec/model.ts';
export { type FoldOptions, foldConstants } from './fold.ts';
export type * from './ir.ts';
export { loadModel } from './load.ts';
export { printGraph, printNode } from './print.ts';
export { type SaveOptions, saveModel } from './save.ts';
export { type InferOptions, inferNode, inferTypes } from './shapes/infer.ts';
export { mergeEqual, removeDead, removeNoOps, type SimplifyOptions, simplify } from './simplify.ts';
export * from './tensor.ts';
export * from './topology.ts';
export { upgradeOpset } from './upgrade.ts';

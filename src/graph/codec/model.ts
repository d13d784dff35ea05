/** ModelProto ↔ Model. */
import { DeepSpeedError } from '../../errors.ts';
import { checkGraph } from '../check.ts';
import type { Graph, Model } from '../ir.ts';
import { canonicalDomain, decodeGraph } from './decode-graph.ts';
import type { ExternalTensor } from './decode-tensor.ts';
import { encodeGraph, type ExternalPlaces } from './encode-graph.ts';
import { WireReader } from './reader.ts';
import { refusal } from './types.ts';
import { WireWriter } from './writer.ts';

/** Protocol buffers stop at 2 GiB: lengths are 32-bit signed in the official libraries. */
export const maxModelBytes = 2 ** 31 - 1;

/**
 * Reads a model that is complete in memory. Tensors are views of `bytes` wherever the file has raw
 * data, so `bytes` must not change while the model is in use. Throws MODEL_FILE_INVALID with the byte
 * offset, GRAPH_INVALID for a graph that no runtime would take, NOT_AVAILABLE_YET for what is refused.
 */
export function decodeModel(bytes: Uint8Array): Model {
  const { model, external } = decodeModelParts(bytes);
  const [first] = external;
  if (first !== undefined) {
    throw new DeepSpeedError(
      'MODEL_FILE_UNREADABLE',
      `tensor '${first.name}' lies in the file '${first.location}', which bytes alone cannot reach`,
      { fix: 'Read the model with loadModel(path), which finds its external data.' },
    );
  }
  return model;
}

/** Like decodeModel; also lists the tensors whose bytes are still to be read from other files. */
export function decodeModelParts(bytes: Uint8Array): { model: Model; external: ExternalTensor[] } {
  const reader = new WireReader(bytes, 'model');
  const external: ExternalTensor[] = [];
  const model: Omit<Model, 'graph'> & { graph?: Graph } = {
    irVersion: 0,
    producerName: '',
    opsets: new Map(),
    metadata: new Map(),
  };
  const functions: string[] = [];
  while (reader.next()) {
    switch (reader.field) {
      case 1:
        model.irVersion = reader.int();
        break;
      case 2:
        model.producerName = reader.string();
        break;
      case 7:
        if (model.graph !== undefined) throw reader.fault('the model has two graphs');
        model.graph = decodeGraph(reader.message('graph'), external);
        break;
      case 8:
        model.opsets.set(...decodeOpset(reader.message('opset_import')));
        break;
      case 14:
        model.metadata.set(...reader.stringEntry('metadata_props'));
        break;
      case 25:
        functions.push(functionName(reader.message('functions')));
        break;
      default: // Versions, documentation and device hints of the producer say nothing about the graph.
        reader.skip();
    }
  }
  const { graph } = model;
  if (graph === undefined) throw reader.fault('there is no graph in it');
  if (model.opsets.size === 0) throw reader.fault('it imports no operator set');
  refuseFunctions(graph, new Set(functions));
  checkGraph(graph);
  return { model: { ...model, graph }, external };
}

/** The model as one file. Throws MODEL_TOO_LARGE before anything is copied. */
export function encodeModel(model: Model): Uint8Array {
  const chunks = encodeModelChunks(model);
  const bytes = new Uint8Array(chunks.reduce((total, chunk) => total + chunk.length, 0));
  let at = 0;
  for (const chunk of chunks) {
    bytes.set(chunk, at);
    at += chunk.length;
  }
  return bytes;
}

/** The file as chunks in order; large tensors are referred to, those in `external` left out. */
export function encodeModelChunks(
  model: Model,
  external: ExternalPlaces = new Map(),
): Uint8Array[] {
  const writer = new WireWriter();
  writer.int(1, model.irVersion);
  if (model.producerName !== '') writer.string(2, model.producerName);
  writer.message(7, (graph) => encodeGraph(graph, model.graph, external));
  for (const [domain, version] of model.opsets) {
    writer.message(8, (opset) => {
      opset.string(1, domain);
      opset.int(2, version);
    });
  }
  for (const [key, value] of model.metadata) writer.stringEntry(14, key, value);
  if (writer.length > maxModelBytes) {
    throw new DeepSpeedError(
      'MODEL_TOO_LARGE',
      `the model takes ${writer.length} bytes; one ONNX file holds at most ${maxModelBytes}`,
      { data: { bytes: writer.length } },
    );
  }
  return writer.chunks();
}

function decodeOpset(reader: WireReader): [domain: string, version: number] {
  let domain = '';
  let version = 0;
  while (reader.next()) {
    if (reader.field === 1) domain = reader.string();
    else if (reader.field === 2) version = reader.int();
    else reader.skip();
  }
  return [canonicalDomain(domain), version];
}

function functionName(reader: WireReader): string {
  let name = '';
  let domain = '';
  while (reader.next()) {
    if (reader.field === 1) name = reader.string();
    else if (reader.field === 10) domain = canonicalDomain(reader.string());
    else reader.skip();
  }
  return `${domain}::${name}`;
}

/** A function that no node calls may stay behind; one that is called must not be lost. */
function refuseFunctions(graph: Graph, functions: ReadonlySet<string>): void {
  for (const node of graph.nodes) {
    if (functions.has(`${node.domain}::${node.opType}`)) {
      throw refusal(
        `node ${node.name} calls the model's own function ${node.opType}`,
        'Inline functions first: `onnx.inliner.inline_local_functions(model)` in Python.',
      );
    }
    for (const attribute of Object.values(node.attributes)) {
      if (attribute.type === 'graph') refuseFunctions(attribute.value, functions);
    }
  }
}

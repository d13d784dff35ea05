/** The graph in memory → GraphProto and the messages inside it, fields in ascending order. */
import type { Attribute, Graph, Node, Tensor, ValueInfo } from '../ir.ts';
import { toStringBytes } from '../tensor.ts';
import { attributeTypeNumbers, dataTypeNumbers } from './types.ts';
import type { WireWriter } from './writer.ts';

/** Where saveModel puts the bytes of tensors that it keeps out of the model file. */
export type ExternalPlaces = ReadonlyMap<Tensor, { location: string; offset: number }>;

export function encodeGraph(writer: WireWriter, graph: Graph, external: ExternalPlaces): void {
  for (const node of graph.nodes) writer.message(1, (child) => encodeNode(child, node, external));
  if (graph.name !== '') writer.string(2, graph.name);
  for (const [name, tensor] of graph.initializers) {
    writer.message(5, (child) => encodeTensor(child, name, tensor, external));
  }
  for (const input of graph.inputs) writer.message(11, (child) => encodeValueInfo(child, input));
  for (const output of graph.outputs) writer.message(12, (child) => encodeValueInfo(child, output));
  for (const info of graph.valueInfo.values()) {
    writer.message(13, (child) => encodeValueInfo(child, info));
  }
}

function encodeNode(writer: WireWriter, node: Node, external: ExternalPlaces): void {
  for (const input of node.inputs) writer.string(1, input);
  for (const output of node.outputs) writer.string(2, output);
  if (node.name !== '') writer.string(3, node.name);
  writer.string(4, node.opType);
  for (const [name, attribute] of Object.entries(node.attributes)) {
    writer.message(5, (child) => encodeAttribute(child, name, attribute, external));
  }
  if (node.domain !== '') writer.string(7, node.domain);
  for (const [key, value] of Object.entries(node.metadata ?? {})) writer.stringEntry(9, key, value);
}

function encodeAttribute(
  writer: WireWriter,
  name: string,
  attribute: Attribute,
  external: ExternalPlaces,
): void {
  writer.string(1, name);
  switch (attribute.type) {
    case 'float':
      writer.float(2, attribute.value);
      break;
    case 'int':
      writer.int(3, attribute.value);
      break;
    case 'string':
      writer.string(4, attribute.value);
      break;
    case 'tensor':
      writer.message(5, (child) => encodeTensor(child, '', attribute.value, external));
      break;
    case 'graph':
      writer.message(6, (child) => encodeGraph(child, attribute.value, external));
      break;
    case 'floats':
      for (const value of attribute.value) writer.float(7, value);
      break;
    case 'ints':
      for (const value of attribute.value) writer.int(8, value);
      break;
    case 'strings':
      for (const value of attribute.value) writer.string(9, value);
      break;
  }
  writer.int(20, attributeTypeNumbers[attribute.type]);
}

function encodeTensor(
  writer: WireWriter,
  name: string,
  tensor: Tensor,
  external: ExternalPlaces,
): void {
  for (const dim of tensor.dims) writer.int(1, dim);
  writer.int(2, dataTypeNumbers[tensor.dtype]);
  if (tensor.dtype === 'string') {
    for (const value of toStringBytes(tensor)) writer.data(6, value);
  }
  if (name !== '') writer.string(8, name);
  if (tensor.dtype === 'string') return;
  const place = external.get(tensor);
  if (place === undefined) {
    writer.data(9, tensor.data);
    return;
  }
  writer.stringEntry(13, 'location', place.location);
  writer.stringEntry(13, 'offset', String(place.offset));
  writer.stringEntry(13, 'length', String(tensor.data.length));
  writer.int(14, 1);
}

function encodeValueInfo(writer: WireWriter, info: ValueInfo): void {
  writer.string(1, info.name);
  writer.message(2, (type) =>
    type.message(1, (tensorType) => {
      tensorType.int(1, dataTypeNumbers[info.dtype]);
      const { shape } = info;
      if (shape === undefined) return;
      tensorType.message(2, (dims) => {
        for (const dim of shape) {
          dims.message(1, (child) => {
            if (typeof dim === 'number') child.int(1, dim);
            else if (dim !== '') child.string(2, dim);
          });
        }
      });
    }),
  );
}

/** GraphProto, NodeProto, AttributeProto and ValueInfoProto → the graph in memory. */
import type { Attribute, Dim, Graph, Node, Tensor, ValueInfo } from '../ir.ts';
import { decodeTensor, type ExternalTensor } from './decode-tensor.ts';
import type { WireReader } from './reader.ts';
import { attributeTypes, dataTypeOf, refusal } from './types.ts';

/**
 * Reads a GraphProto. An initializer that is also listed as an input (all are, before IR version 4) is
 * an initializer only. Dropped: documentation and quantisation annotations, which no pass keeps true.
 */
export function decodeGraph(reader: WireReader, external: ExternalTensor[]): Graph {
  const graph: Graph = {
    name: '',
    inputs: [],
    outputs: [],
    initializers: new Map(),
    nodes: [],
    valueInfo: new Map(),
  };
  while (reader.next()) {
    switch (reader.field) {
      case 1:
        graph.nodes.push(decodeNode(reader.message(`node[${graph.nodes.length}]`), external));
        break;
      case 2:
        graph.name = reader.string();
        break;
      case 5: {
        const at = `initializer[${graph.initializers.size}]`;
        const { name, tensor } = decodeTensor(reader.message(at), external);
        if (graph.initializers.has(name))
          throw reader.fault(`two initializers are called '${name}'`);
        graph.initializers.set(name, tensor);
        break;
      }
      case 11:
        graph.inputs.push(decodePort(reader.message(`input[${graph.inputs.length}]`)));
        break;
      case 12:
        graph.outputs.push(decodePort(reader.message(`output[${graph.outputs.length}]`)));
        break;
      case 13: {
        const info = decodeValueInfo(reader.message('value_info'));
        if ('dtype' in info) graph.valueInfo.set(info.name, info);
        break;
      }
      case 15:
        throw refusal('a sparse initializer', 'Store the weights densely and export again.');
      default:
        reader.skip();
    }
  }
  graph.inputs = graph.inputs.filter((input) => !graph.initializers.has(input.name));
  return graph;
}

function decodeNode(reader: WireReader, external: ExternalTensor[]): Node {
  const node: Node = { name: '', opType: '', domain: '', inputs: [], outputs: [], attributes: {} };
  const metadata: Record<string, string> = {};
  while (reader.next()) {
    switch (reader.field) {
      case 1:
        node.inputs.push(reader.string());
        break;
      case 2:
        node.outputs.push(reader.string());
        break;
      case 3:
        node.name = reader.string();
        break;
      case 4:
        node.opType = reader.string();
        break;
      case 5: {
        const [name, value] = decodeAttribute(reader.message('attribute'), external);
        if (Object.hasOwn(node.attributes, name))
          throw reader.fault(`attribute '${name}' is there twice`);
        node.attributes[name] = value;
        break;
      }
      case 7:
        node.domain = canonicalDomain(reader.string());
        break;
      case 9: {
        const [key, value] = reader.stringEntry('metadata_props');
        metadata[key] = value;
        break;
      }
      default:
        reader.skip();
    }
  }
  if (node.opType === '') throw reader.fault(`node '${node.name}' has no operator type`);
  if (Object.keys(metadata).length > 0) node.metadata = metadata;
  return node;
}

/** 'ai.onnx' and '' are one domain. */
export function canonicalDomain(domain: string): string {
  return domain === 'ai.onnx' ? '' : domain;
}

function decodeAttribute(reader: WireReader, external: ExternalTensor[]): [string, Attribute] {
  let name = '';
  let typeNumber = 0;
  let reference = '';
  let found: Attribute['type'] | undefined;
  let single: number | string | Tensor | Graph | undefined;
  const floats: number[] = [];
  const ints: number[] = [];
  const strings: string[] = [];
  while (reader.next()) {
    switch (reader.field) {
      case 1:
        name = reader.string();
        break;
      case 2:
        [found, single] = ['float', reader.float()];
        break;
      case 3:
        [found, single] = ['int', reader.int()];
        break;
      case 4:
        [found, single] = ['string', reader.string()];
        break;
      case 5:
        [found, single] = ['tensor', decodeTensor(reader.message('t'), external).tensor];
        break;
      case 6:
        [found, single] = ['graph', decodeGraph(reader.message('g'), external)];
        break;
      case 7:
        found = 'floats';
        reader.floats((value) => floats.push(value));
        break;
      case 8:
        found = 'ints';
        reader.varints(() => ints.push((reader.high | 0) * 2 ** 32 + reader.low));
        break;
      case 9:
        found = 'strings';
        strings.push(reader.string());
        break;
      case 20:
        typeNumber = reader.int();
        break;
      case 21:
        reference = reader.string();
        break;
      default:
        reader.skip();
    }
  }
  if (name === '') throw reader.fault('an attribute has no name');
  if (reference !== '')
    throw reader.fault(`attribute '${name}' refers to a function's '${reference}'`);
  // The first version of the format had no type field: the filled one tells.
  const type = typeNumber === 0 ? found : attributeTypes.get(typeNumber);
  if (type === undefined) {
    throw refusal(
      `attribute '${name}' of type number ${typeNumber} (${reader.path})`,
      'Export the model without sparse tensors, type attributes and lists of graphs.',
    );
  }
  const lists = { floats, ints, strings };
  if (type === 'floats' || type === 'ints' || type === 'strings') {
    return [name, { type, value: lists[type] } as Attribute];
  }
  if (found === undefined) return [name, defaultOf(reader, name, type)];
  if (found !== type) throw reader.fault(`attribute '${name}' says ${type} and holds ${found}`);
  return [name, { type, value: single } as Attribute];
}

/** Writers may leave out a field that holds its default. */
function defaultOf(reader: WireReader, name: string, type: Attribute['type']): Attribute {
  if (type === 'int' || type === 'float') return { type, value: 0 };
  if (type === 'string') return { type, value: '' };
  throw reader.fault(`attribute '${name}' says ${type} and holds nothing`);
}

/** A graph input or output, which must be a tensor. */
function decodePort(reader: WireReader): ValueInfo {
  const info = decodeValueInfo(reader);
  if ('dtype' in info) return info;
  throw refusal(
    `graph value '${info.name}' is ${info.kind ?? 'of no type'}, not a tensor`,
    'Export the model with tensors as its inputs and outputs.',
  );
}

const typeKinds: Record<number, string> = {
  4: 'a sequence',
  5: 'a map',
  7: 'opaque',
  8: 'a sparse tensor',
  9: 'an optional',
};

function decodeValueInfo(
  reader: WireReader,
): ValueInfo | { name: string; kind: string | undefined } {
  let name = '';
  let type: WireReader | undefined;
  while (reader.next()) {
    if (reader.field === 1) name = reader.string();
    else if (reader.field === 2) type = reader.message('type');
    else reader.skip();
  }
  let kind: string | undefined;
  while (type?.next()) {
    if (type.field === 1) return decodeTensorType(type.message('tensor_type'), name);
    kind ??= typeKinds[type.field];
    type.skip();
  }
  return { name, kind };
}

function decodeTensorType(reader: WireReader, name: string): ValueInfo {
  let typeNumber = 0;
  let shape: Dim[] | undefined;
  while (reader.next()) {
    if (reader.field === 1) typeNumber = reader.int();
    else if (reader.field === 2) shape = decodeShape(reader.message('shape'));
    else reader.skip();
  }
  const dtype = dataTypeOf(typeNumber, `value '${name}'`);
  return shape === undefined ? { name, dtype } : { name, dtype, shape };
}

function decodeShape(reader: WireReader): Dim[] {
  const shape: Dim[] = [];
  while (reader.next()) {
    if (reader.field === 1) shape.push(decodeDim(reader.message(`dim[${shape.length}]`)));
    else reader.skip();
  }
  return shape;
}

/** Old exporters write -1 where they mean a dimension without a name. */
function decodeDim(reader: WireReader): Dim {
  let dim: Dim = '';
  while (reader.next()) {
    if (reader.field === 1) {
      const value = reader.int();
      dim = value < 0 ? '' : value;
    } else if (reader.field === 2) dim = reader.string();
    else reader.skip();
  }
  return dim;
}

/** Binding the symbols of declared input shapes to numbers. */
import { DeepSpeedError } from '../../errors.ts';
import type { Dim, Graph, ValueType } from '../ir.ts';

interface Binding {
  value: number;
  /** Who said so, for the error when another says otherwise. */
  source: string;
}

/**
 * The types of the graph's inputs. Given shapes must agree with the declared ones, and a symbol means
 * the same number everywhere; inputs that are not given take their declared shape.
 */
export function bindInputs(
  graph: Graph,
  shapes: Readonly<Record<string, readonly number[]>>,
  symbols: Readonly<Record<string, number>>,
): Map<string, ValueType> {
  const bindings = new Map<string, Binding>();
  for (const [symbol, value] of Object.entries(symbols)) {
    bindings.set(symbol, { value, source: 'the given symbols' });
  }
  const names = graph.inputs.map((input) => input.name);
  for (const name of Object.keys(shapes)) {
    if (!names.includes(name)) {
      throw mismatch(`a shape is given for '${name}'; the graph's inputs are: ${names.join(', ')}`);
    }
  }
  for (const { name, shape } of graph.inputs) {
    const given = shapes[name];
    if (given !== undefined) bindShape(name, shape, given, bindings);
  }
  return new Map(
    graph.inputs.map(({ name, dtype, shape }) => [
      name,
      { dtype, shape: shapes[name] ?? resolveShape(name, shape, bindings) },
    ]),
  );
}

function bindShape(
  name: string,
  declared: readonly Dim[] | undefined,
  given: readonly number[],
  bindings: Map<string, Binding>,
): void {
  if (given.some((dim) => !Number.isSafeInteger(dim) || dim < 0)) {
    throw mismatch(`[${given.join(', ')}] is not a shape (input '${name}')`);
  }
  if (declared === undefined) return;
  if (declared.length !== given.length) {
    throw mismatch(
      `input '${name}' has ${declared.length} dimensions, [${declared.join(', ')}], and is given [${given.join(', ')}]`,
    );
  }
  for (const [axis, dim] of declared.entries()) {
    const value = given[axis]!;
    const source = `axis ${axis} of input '${name}'`;
    if (typeof dim === 'number') {
      if (dim !== value) throw mismatch(`${source} is ${dim} and is given ${value}`);
    } else if (dim !== '') {
      const bound = bindings.get(dim);
      if (bound === undefined) bindings.set(dim, { value, source });
      else if (bound.value !== value) {
        throw mismatch(`'${dim}' is ${bound.value} in ${bound.source} and ${value} in ${source}`);
      }
    }
  }
}

function resolveShape(
  name: string,
  declared: readonly Dim[] | undefined,
  bindings: ReadonlyMap<string, Binding>,
): number[] {
  const unknown = (what: string) =>
    new DeepSpeedError('SHAPE_UNKNOWN', `the shape of input '${name}' is not known: ${what}`, {
      fix: `Give the shape of '${name}' or the values of its symbols.`,
      data: { input: name },
    });
  if (declared === undefined) throw unknown('the model declares none');
  return declared.map((dim, axis) => {
    if (typeof dim === 'number') return dim;
    const bound = bindings.get(dim);
    if (bound !== undefined) return bound.value;
    throw unknown(dim === '' ? `axis ${axis} has no name` : `'${dim}' has no value`);
  });
}

function mismatch(message: string): DeepSpeedError {
  return new DeepSpeedError('SHAPE_MISMATCH', message);
}

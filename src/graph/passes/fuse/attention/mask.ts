/**
 * What a mask on attention scores says. Models write masks as numbers that are added (0 or something very
 * low), as conditions of a Where, or as a product with 1 − mask; a causal part that is constant, or a
 * comparison of positions, becomes an attribute, one condition per key the operator's key mask, and
 * whatever is left a bias.
 */
import { intAttribute } from '../../../attributes.ts';
import type { Node } from '../../../ir.ts';
import { operatorKey } from '../../../operator-key.ts';
import { toNumbers } from '../../../tensor.ts';
import type { GraphView } from '../pattern.ts';
import { constantOf, uniform } from './constant.ts';

/** Scores this low have the probability 0 beside any score that is not (exp(−1e4) = 0 in float32). */
const maskedBelow = -1e4;

/** Sizes of the scores [B, H, S, T], for queries that may be laid out in groups (see `groups`). */
export interface ScoreSize {
  /** 4, or 3 without a head axis. */
  rank: number;
  length: number;
  keys: number;
  /** Queries of as many heads follow each other as rows of one product: the mask repeats. */
  groups: number;
}

/** A bool value; `negate`: it is true where a key is hidden. */
export interface Condition {
  value: string;
  negate: boolean;
}

export class Mask {
  causal = false;
  /** One truth per key, [B or 1, 1, 1, T]. */
  readonly keys: Condition[] = [];
  /** Truths that depend on the query, too. */
  readonly visible: Condition[] = [];
  /** What is added to the scores, times `factor`. */
  readonly bias: { value: string; factor: number }[] = [];
  private readonly view: GraphView;
  private readonly size: ScoreSize;

  constructor(view: GraphView, size: ScoreSize) {
    this.view = view;
    this.size = size;
  }

  /** A value that is added to the scores. */
  add(value: string, factor: number): void {
    if (factor === 1 && this.addKnown(value)) return;
    this.bias.push({ value, factor });
  }

  /** A condition that lets a query see a key; `negate`: that hides it. */
  see(value: string, negate: boolean): void {
    const { view } = this;
    const constant = constantOf(view, value);
    if (constant !== undefined) {
      const truths = toNumbers(constant).map((number) => (number !== 0) !== negate);
      if (this.constantTruth(truths, constant.dims)) return;
    }
    const node = view.from(value);
    const key = node && operatorKey(node);
    if (node !== undefined && this.comparison(node, negate)) return;
    if (key === (negate ? 'Or' : 'And')) {
      for (const input of node!.inputs) this.see(input, negate);
    } else if (key === 'Not') {
      this.see(node!.inputs[0]!, !negate);
    } else if (key === 'Expand' || key === 'Identity' || (node && addsAxes(view, node))) {
      this.see(node!.inputs[0]!, negate);
    } else if (key === 'Concat' && this.isRepeated(node!)) {
      this.see(node!.inputs[0]!, negate);
    } else {
      (this.isPerKey(value) ? this.keys : this.visible).push({ value, negate });
    }
  }

  /** Takes an added value apart; false when it is not of a known form. */
  private addKnown(value: string): boolean {
    const { view } = this;
    const constant = constantOf(view, value);
    if (constant !== undefined) {
      const numbers = toNumbers(constant);
      if (!numbers.every((number) => number === 0 || number <= maskedBelow)) return false;
      const truths = numbers.map((number) => number === 0);
      return this.constantTruth(truths, constant.dims);
    }
    const node = view.from(value);
    if (node !== undefined && addsAxes(view, node)) {
      this.add(node.inputs[0]!, 1);
      return true;
    }
    switch (node && operatorKey(node)) {
      case 'Add':
        for (const input of node!.inputs) this.add(input, 1);
        return true;
      case 'Expand':
      case 'Identity':
        this.add(node!.inputs[0]!, 1);
        return true;
      case 'Concat':
        if (!this.isRepeated(node!)) return false;
        this.add(node!.inputs[0]!, 1);
        return true;
      case 'Where':
        return this.where(node!);
      case 'Mul':
        return this.inverted(node!);
      case 'Trilu':
        return this.triangle(node!);
      default:
        return false;
    }
  }

  /** Where(condition, x, low) or Where(condition, low, x). */
  private where(node: Node): boolean {
    const [condition, yes, no] = node.inputs as [string, string, string];
    const [high, low] = [uniform(this.view, yes), uniform(this.view, no)];
    if (low !== undefined && low <= maskedBelow) {
      this.see(condition, false);
      if (high !== 0) this.add(yes, 1);
      return true;
    }
    if (high === undefined || high > maskedBelow) return false;
    this.see(condition, true);
    if (low !== 0) this.add(no, 1);
    return true;
  }

  /** (1 − mask) · low, with a mask of zeros and ones that was a bool or an integer before. */
  private inverted(node: Node): boolean {
    const { view } = this;
    const scaled = view.withScalar(node);
    if (scaled === undefined || scaled.number > maskedBelow) return false;
    const difference = view.from(scaled.other, 'Sub');
    if (difference === undefined || uniform(view, difference.inputs[0]!) !== 1) return false;
    const cast = view.from(difference.inputs[1], 'Cast');
    if (cast === undefined || view.type(cast.inputs[0]!).dtype.includes('float')) return false;
    this.see(cast.inputs[0]!, false);
    return true;
  }

  /** Low numbers above a diagonal. */
  private triangle(node: Node): boolean {
    const { length, keys, groups } = this.size;
    const fill = uniform(this.view, node.inputs[0]!);
    const diagonal = node.inputs[1] ? this.view.scalar(node.inputs[1]) : 0;
    const upper = intAttribute(node, 'upper', 1) === 1;
    if (!upper || fill === undefined || fill > maskedBelow || groups !== 1) return false;
    if (diagonal !== 1 + keys - length) return false;
    this.causal = true;
    return true;
  }

  /** Key positions compared with query positions, both constant vectors: at any length. */
  private comparison(node: Node, negate: boolean): boolean {
    const { view, size } = this;
    const key = operatorKey(node);
    const meaning: Record<string, (a: number, b: number) => boolean> = {
      Less: (a, b) => a < b,
      LessOrEqual: (a, b) => a <= b,
      Greater: (a, b) => a > b,
      GreaterOrEqual: (a, b) => a >= b,
    };
    const compare = meaning[key];
    if (compare === undefined) return false;
    const [a, b] = node.inputs.map((input) => this.positions(input)) as [Positions?, Positions?];
    if (a === undefined || b === undefined) return false;
    const { length, keys } = size;
    const shape = view.shape(node.outputs[0]!);
    if (shape.at(-2) !== length || shape.at(-1) !== keys) return false;
    if (!shape.slice(0, -2).every((dim) => dim === 1)) return false;
    const truth = (i: number, j: number) => compare(a(i, j), b(i, j)) !== negate;
    // Both sides rise by one from place to place: what holds beside the diagonal holds beyond it.
    for (let i = 0; i < length; i++) {
      const last = i + keys - length;
      if (last >= 0 && !truth(i, last)) return false;
      if (last + 1 < keys && truth(i, Math.max(0, last + 1))) return false;
    }
    this.causal = true;
    return true;
  }

  /** A constant vector of consecutive numbers along the queries or the keys. */
  private positions(value: string): Positions | undefined {
    const constant = constantOf(this.view, value);
    if (constant === undefined) return undefined;
    const numbers = toNumbers(constant);
    const [rows = 1, columns = 1] = [constant.dims.at(-2), constant.dims.at(-1)];
    if (rows * columns !== numbers.length || (rows !== 1 && columns !== 1)) return undefined;
    const rising = numbers.every((number, i) => i === 0 || number === numbers[i - 1]! + 1);
    return rising ? (i, j) => numbers[columns > 1 ? j : rows > 1 ? i : 0]! : undefined;
  }

  /** Truths over the trailing axes [S, T]; false when they are neither all, nor exactly causal. */
  private constantTruth(truths: readonly boolean[], dims: readonly number[]): boolean {
    if (truths.every(Boolean)) return true;
    const { length, keys, groups } = this.size;
    const [rows, columns] = [dims.at(-2) ?? 1, dims.at(-1) ?? 1];
    if (columns !== keys || (rows !== length && rows !== length * groups)) return false;
    const causal = truths.every((truth, at) => {
      const query = Math.floor(at / columns) % length;
      return truth === at % columns <= query + keys - length;
    });
    this.causal ||= causal;
    return causal;
  }

  /** Is it the same value, once for each group of queries? */
  private isRepeated(node: Node): boolean {
    const rank = this.view.shape(node.outputs[0]!).length;
    const axis = intAttribute(node, 'axis', 0);
    const alongQueries = (axis < 0 ? axis + rank : axis) === rank - 2;
    const same = node.inputs.every((input) => input === node.inputs[0]);
    return alongQueries && same && node.inputs.length === this.size.groups;
  }

  /** 4, or 3 where scores have no head axis. */
  get rank(): number {
    return this.size.rank;
  }

  private isPerKey(value: string): boolean {
    const shape = this.view.shape(value);
    const rows = shape.at(-2) ?? 1;
    const heads = this.size.rank === 4 ? (shape.at(-3) ?? 1) : 1;
    return shape.at(-1) === this.size.keys && heads === 1 && rows === 1;
  }
}

/** The number compared for a query and a key. */
type Positions = (query: number, key: number) => number;

/** Does a node only put axes of one element in front, as broadcasting would? */
function addsAxes(view: GraphView, node: Node): boolean {
  if (!['Unsqueeze', 'Reshape'].includes(operatorKey(node))) return false;
  const [from, to] = [view.shape(node.inputs[0]!), view.shape(node.outputs[0]!)];
  const extra = to.length - from.length;
  return extra >= 0 && to.every((dim, i) => dim === (i < extra ? 1 : from[i - extra]));
}

/** How the values of one segment's programs are called in the plan. */
import type { CompiledPiece } from './compile.ts';
import { gradientName } from './gradient/index.ts';
import type { PlannedValue, ValueKind } from './planned.ts';
import type { Piece } from './segments.ts';

/** The plan's names and kinds for the formal names of one segment. */
export class ActualNames {
  private readonly compiled: CompiledPiece;
  private readonly actuals: Map<string, string>;
  /** Formal name of an arriving gradient → its actual name. */
  private readonly arriving = new Map<string, string>();

  constructor(compiled: CompiledPiece, senders: ReadonlyMap<string, Piece[]>, loss: string) {
    this.compiled = compiled;
    this.actuals = new Map([...compiled.canonical.formals].map(([actual, name]) => [name, actual]));
    for (const [output, formals] of compiled.arriving) {
      const from = senders.get(output) ?? [];
      const several = from.length > 1;
      const actuals = from.map((piece) => arrival(output, several ? piece.name : undefined));
      if (output === loss) actuals.push(gradientName(loss));
      formals.forEach((formal, i) => {
        this.arriving.set(formal, actuals[i]!);
      });
    }
  }

  /** Activations of earlier segments for which this one's backward computes a gradient. */
  sentGradients(): string[] {
    const outputs = this.compiled.program.backward?.outputs ?? [];
    return outputs
      .filter(({ name }) => name.startsWith('grad.'))
      .map(({ name }) => this.actuals.get(name.slice('grad.'.length))!);
  }

  value(formal: string, output: boolean, graphOutputs: ReadonlySet<string>): PlannedValue {
    const { dtype, shape } = this.compiled.types.get(formal)!;
    return { formal, dtype, shape, ...this.describe(formal, output, graphOutputs) };
  }

  private describe(
    formal: string,
    output: boolean,
    graphOutputs: ReadonlySet<string>,
  ): Pick<PlannedValue, 'actual' | 'kind' | 'parameter'> {
    const { canonical, piece, saved } = this.compiled;
    const arriving = this.arriving.get(formal);
    if (arriving !== undefined) return { actual: arriving, kind: 'grad' };
    for (const [prefix, kind] of prefixes) {
      if (!formal.startsWith(prefix)) continue;
      const target = this.actuals.get(formal.slice(prefix.length));
      // The sender's mark is added when all senders are known.
      if (kind === 'grad') return { actual: target!, kind };
      if (kind === 'mask') return { actual: `${prefix}${piece.name}.${formal.slice(5)}`, kind };
      const shared = kind === 'buffer' || kind === 'first';
      const actual = `${prefix}${target}${shared ? '' : `@${piece.name}`}`;
      return { actual, kind, parameter: target! };
    }
    const role = canonical.roles.get(formal);
    const actual = this.actuals.get(formal);
    if (role !== undefined) return { actual: actual!, kind: role as ValueKind };
    const kept = graphOutputs.has(actual!);
    // A kept output that backward reads, too, is one value with one place.
    if (saved.has(formal) && !kept) return { actual: `${piece.name}/${formal}`, kind: 'saved' };
    return { actual: actual!, kind: output && kept ? 'output' : 'activation' };
  }
}

const prefixes = [
  ['gradient_buffer.', 'buffer'],
  ['first.', 'first'],
  ['token.', 'token'],
  ['updated.', 'updated'],
  ['grad.', 'grad'],
  ['mask.', 'mask'],
] as const;

/** Name of an activation's gradient, with its sender when there are several. */
export function arrival(activation: string, sender: string | undefined): string {
  return sender === undefined ? `grad.${activation}` : `grad.${activation}@${sender}`;
}

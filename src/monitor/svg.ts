/** The few pieces of SVG that the plots share: escaping, scales, ticks, a theme for light and dark. */

export type Scale = (value: number) => number;

export function linearScale(
  [from, to]: readonly [number, number],
  [start, end]: readonly [number, number],
): Scale {
  const span = to - from || 1;
  return (value) => start + ((value - from) / span) * (end - start);
}

/** Round numbers (1, 2 or 5 times a power of ten) inside the domain, about `count` of them. */
export function ticks([from, to]: readonly [number, number], count: number): number[] {
  const span = to - from;
  if (!(span > 0)) return [from];
  const rough = span / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * ([1, 2, 5].find((factor) => factor * power >= rough) ?? 10);
  const first = Math.ceil(from / step - 1e-9);
  const last = Math.floor(to / step + 1e-9);
  // Multiples by division of integers: 3 · 0.1 would print as 0.30000000000000004.
  const perUnit = Math.round(1 / step);
  return Array.from({ length: last - first + 1 }, (_, i) =>
    step < 1 ? (first + i) / perUnit : (first + i) * step,
  );
}

export function escapeText(text: string): string {
  const entities: Record<string, string> = {
    '&': '&amp;',
    '<': '&lt;',
    '>': '&gt;',
    '"': '&quot;',
  };
  return text.replace(/[&<>"]/g, (character) => entities[character]!);
}

/** A number with at most two decimals: more is noise in a file. */
export function px(value: number): string {
  return String(Number(value.toFixed(2)));
}

export function text(
  x: number,
  y: number,
  content: string,
  {
    anchor = 'start',
    size = 12,
    role = 'ink',
  }: { anchor?: string; size?: number; role?: string } = {},
): string {
  return `<text x="${px(x)}" y="${px(y)}" text-anchor="${anchor}" font-size="${size}" class="${role}">${escapeText(content)}</text>`;
}

/** Colours by class, of equal meaning on light and dark ground; blue and orange also differ to the colour-blind. */
const theme = `
  text { font-family: system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif }
  .ground { fill: #ffffff } .ink { fill: #1f2328 } .soft { fill: #656d76 }
  .grid { stroke: #d8dee4; stroke-width: 1 } .axis { stroke: #8c959f; stroke-width: 1 }
  .first { stroke: #2563c9; fill: #2563c9 } .second { stroke: #c2570c; fill: #c2570c }
  .third { stroke: #2b8a3e; fill: #2b8a3e } .fourth { stroke: #7c4dcc; fill: #7c4dcc }
  @media (prefers-color-scheme: dark) {
    .ground { fill: #14181d } .ink { fill: #e6edf3 } .soft { fill: #9aa4af }
    .grid { stroke: #2b323a } .axis { stroke: #6e7781 }
    .first { stroke: #6ea8fe; fill: #6ea8fe } .second { stroke: #f79b5b; fill: #f79b5b }
    .third { stroke: #63c97c; fill: #63c97c } .fourth { stroke: #b794f6; fill: #b794f6 }
  }
  .line { fill: none; stroke-linejoin: round; stroke-linecap: round }`;

export function svgDocument(width: number, height: number, title: string, body: string[]): string {
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" width="${width}" height="${height}" role="img">`,
    `<title>${escapeText(title)}</title>`,
    `<style>${theme}\n</style>`,
    `<rect width="${width}" height="${height}" class="ground"/>`,
    ...body,
    '</svg>',
    '',
  ].join('\n');
}

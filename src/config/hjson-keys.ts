/**
 * Where each key of an HJSON text stands. The `hjson` package parses, and neither says lines nor
 * notices a key given twice; this scanner does only that, on text the package has accepted, so it
 * need not report syntax errors.
 */

export interface KeyPlace {
  /** Dotted; list elements count as numbers. */
  path: string;
  /** 1-based. */
  line: number;
  /** The line of the same key in the same object, if it stood there before. */
  firstLine?: number;
}

/** All keys in order of appearance, repeated ones included. */
export function locateKeys(text: string): KeyPlace[] {
  const places: KeyPlace[] = [];
  let at = 0;

  const startsWith = (token: string) => text.startsWith(token, at);

  function skipBlank(): void {
    while (at < text.length) {
      if (text[at]! <= ' ' || text[at] === '\uFEFF') at++;
      else if (startsWith('#') || startsWith('//')) skipUntil('\n');
      else if (startsWith('/*')) skipUntil('*/');
      else return;
    }
  }

  function skipUntil(token: string): void {
    const end = text.indexOf(token, at);
    at = end < 0 ? text.length : end + token.length;
  }

  function quoted(): string {
    const quote = text[at]!;
    const start = ++at;
    while (at < text.length && text[at] !== quote) at += text[at] === '\\' ? 2 : 1;
    const body = text.slice(start, at++);
    return decodeEscapes(body);
  }

  function keyName(): string {
    if (startsWith('"') || startsWith("'")) return quoted();
    const start = at;
    while (at < text.length && text[at] !== ':') at++;
    return text.slice(start, at).trimEnd();
  }

  function value(path: string): void {
    skipBlank();
    if (startsWith('{')) {
      at++;
      members(path);
    } else if (startsWith('[')) {
      at++;
      elements(path);
    } else if (startsWith("'''")) {
      at += 3;
      skipUntil("'''");
    } else if (startsWith('"') || startsWith("'")) {
      quoted();
    } else {
      quoteless();
    }
  }

  /** A number or keyword ends at punctuation or a comment; anything else is a string up to the end of the line. */
  function quoteless(): void {
    const literal =
      /(?:true|false|null|-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?)[^\S\r\n]*(?=$|[\r\n,\]}#]|\/\/|\/\*)/y;
    literal.lastIndex = at;
    const match = literal.exec(text);
    if (match !== null) at += match[0].length;
    else skipUntil('\n');
  }

  function members(path: string): void {
    const seen = new Map<string, number>();
    for (;;) {
      skipBlank();
      if (startsWith(',')) at++;
      else if (startsWith('}')) {
        at++;
        return;
      } else if (at >= text.length) return;
      else {
        const line = lineAt(at);
        const name = keyName();
        const full = path === '' ? name : `${path}.${name}`;
        const firstLine = seen.get(name);
        places.push({ path: full, line, ...(firstLine !== undefined && { firstLine }) });
        if (firstLine === undefined) seen.set(name, line);
        skipUntil(':');
        value(full);
      }
    }
  }

  function elements(path: string): void {
    for (let index = 0; ; ) {
      skipBlank();
      if (startsWith(',')) at++;
      else if (startsWith(']')) {
        at++;
        return;
      } else if (at >= text.length) return;
      else value(`${path}.${index++}`);
    }
  }

  function lineAt(position: number): number {
    let line = 1;
    for (let i = text.indexOf('\n'); i >= 0 && i < position; i = text.indexOf('\n', i + 1)) line++;
    return line;
  }

  skipBlank();
  if (startsWith('{')) at++;
  members('');
  return places;
}

function decodeEscapes(body: string): string {
  const simple: Record<string, string> = { b: '\b', f: '\f', n: '\n', r: '\r', t: '\t' };
  return body.replace(/\\(?:u([0-9a-fA-F]{4})|(.))/gs, (_, code, letter) =>
    code === undefined
      ? (simple[letter] ?? letter)
      : String.fromCharCode(Number.parseInt(code, 16)),
  );
}

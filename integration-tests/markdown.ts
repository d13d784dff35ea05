/** The parts of a Markdown page that a test can check. */
export interface CodeBlock {
  /** First word after the fence. */
  language: string;
  /** Second word: the file that the block is the content of. */
  file: string | undefined;
  code: string;
  line: number;
}

export function codeBlocks(markdown: string): CodeBlock[] {
  const blocks: CodeBlock[] = [];
  let open: CodeBlock | undefined;
  for (const [index, text] of markdown.split('\n').entries()) {
    const fence = /^ *```(\S*)\s*(\S*)/.exec(text);
    if (!fence) {
      if (open) open.code += `${text}\n`;
    } else if (open) {
      blocks.push(open);
      open = undefined;
    } else {
      open = { language: fence[1]!, file: fence[2] || undefined, code: '', line: index + 1 };
    }
  }
  if (open) throw new Error(`the code block of line ${open.line} has no end`);
  return blocks;
}

/** The commands of a `sh` block, one each; comments left out, what `&&` joins taken apart. */
export function commandsOf(block: CodeBlock): string[] {
  return block.code
    .split('\n')
    .map((line) => line.replace(/\s#.*$/, '').trim())
    .filter((line) => line !== '')
    .flatMap((line) => line.split('&&').map((command) => command.trim()));
}

/** What stands between single backquotes, outside of code blocks. */
export function inlineCode(markdown: string): string[] {
  const prose = markdown.replace(/^ *```[\s\S]*?^ *```/gm, '');
  return [...prose.matchAll(/`([^`\n]+)`/g)].map(([, code]) => code!);
}

export interface Link {
  /** Empty for a place on the same page. */
  path: string;
  anchor: string | undefined;
}

/** Links within the repository; web addresses left out. */
export function links(markdown: string): Link[] {
  return [...markdown.matchAll(/\]\(([^)\s]+)\)/g)]
    .map(([, target]) => target!)
    .filter((target) => !/^[a-z]+:/.test(target))
    .map((target) => {
      const [path, anchor] = target.split('#');
      return { path: path!, anchor };
    });
}

/** Names by which links reach the headings of a page, as GitHub makes them. */
export function anchors(markdown: string): string[] {
  return [...markdown.matchAll(/^#+ (.*)$/gm)].map(([, heading]) =>
    heading!
      .toLowerCase()
      .replace(/[^\w\- ]/g, '')
      .replaceAll(' ', '-'),
  );
}

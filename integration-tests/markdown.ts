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
    const fence = /^```(\S*)\s*(\S*)/.exec(text);
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

/** Targets of links that are files of the repository; fragments and web addresses left out. */
export function fileLinks(markdown: string): string[] {
  return [...markdown.matchAll(/\]\(([^)\s]+)\)/g)]
    .map(([, target]) => target!.replace(/#.*$/, ''))
    .filter((target) => target !== '' && !/^[a-z]+:/.test(target));
}

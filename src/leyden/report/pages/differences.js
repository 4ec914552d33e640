/* Differences of two texts, word by word. */
leyden.differences = (() => {
  const LARGEST = 4e6; /* cells of the table of common words; larger ones would stop the page */
  const SOME = 0.2; /* share of words in common below which marks say nothing */
  const segmenter = typeof Intl.Segmenter === "function" ? new Intl.Segmenter(undefined, { granularity: "word" }) : null;
  const wordsOf = (text) => (segmenter ? Array.from(segmenter.segment(text), (one) => one.segment) : text.match(/\s+|[^\s]+/g) ?? []);
  const blank = (word) => !word.trim();
  const counted = (words) => words.filter((word) => /[\p{L}\p{N}]/u.test(word)).length;

  /* Which words of a and b are in their longest common subsequence. */
  function common(a, b) {
    const inA = new Uint8Array(a.length), inB = new Uint8Array(b.length);
    let start = 0, endA = a.length, endB = b.length;
    while (start < endA && start < endB && a[start] === b[start]) { inA[start] = inB[start] = 1; start++; }
    while (endA > start && endB > start && a[endA - 1] === b[endB - 1]) { inA[--endA] = inB[--endB] = 1; }
    const rows = endA - start, columns = endB - start, width = columns + 1;
    if (rows * columns > LARGEST) return null;
    const lengths = new Uint32Array((rows + 1) * width);
    for (let i = rows - 1; i >= 0; i--) {
      for (let j = columns - 1; j >= 0; j--) {
        const here = i * width + j;
        lengths[here] = a[start + i] === b[start + j] ? lengths[here + width + 1] + 1 : Math.max(lengths[here + width], lengths[here + 1]);
      }
    }
    for (let i = 0, j = 0; i < rows && j < columns;) {
      if (a[start + i] === b[start + j]) { inA[start + i++] = 1; inB[start + j++] = 1; }
      else if (lengths[(i + 1) * width + j] >= lengths[i * width + j + 1]) i++;
      else j++;
    }
    return [inA, inB];
  }

  /* Give up common words that stand alone in the midst of changed ones: single ones are chance, and hard to read. */
  function withoutChance(a, b, [inA, inB]) {
    const blocks = []; /* [start in a, start in b, end in a, end in b], of words that stand together in both */
    for (let i = 0, j = 0; i < a.length || j < b.length;) {
      if (inA[i] && inB[j]) {
        const from = [i, j];
        while (i < a.length && j < b.length && inA[i] && inB[j]) { i++; j++; }
        blocks.push([...from, i, j]);
      } else {
        while (i < a.length && !inA[i]) i++;
        while (j < b.length && !inB[j]) j++;
      }
    }
    const gap = (before, after) => {
      const [startA, startB] = before ? before.slice(2) : [0, 0], [endA, endB] = after ?? [a.length, b.length];
      return Math.max(counted(a.slice(startA, endA)), counted(b.slice(startB, endB)));
    };
    for (let left = blocks, before = Infinity; left.length < before;) { /* each that goes makes the gaps beside it larger */
      before = left.length;
      left = left.filter((block, place, all) => {
        const words = counted(a.slice(block[0], block[2]));
        if (words >= Math.min(gap(all[place - 1], block), gap(block, all[place + 1]))) return true;
        inA.fill(0, block[0], block[2]);
        inB.fill(0, block[1], block[3]);
        return false;
      });
    }
  }

  /* Runs of words that are alike: [text, is changed]. A blank between changed words is one of them. */
  function runs(words, kept) {
    const found = [];
    words.forEach((word, place) => {
      const between = blank(word) && place > 0 && place + 1 < words.length && !kept[place - 1] && !kept[place + 1];
      const changed = !kept[place] || between;
      if (found.length && found[found.length - 1][1] === changed) found[found.length - 1][0] += word;
      else found.push([word, changed]);
    });
    return found;
  }

  /** Both texts as runs, and why there are no marks, if so. */
  return (from, to) => {
    const a = wordsOf(from), b = wordsOf(to), plain = { from: [[from, false]], to: [[to, false]] };
    if (from === to) return { ...plain, said: "No difference in what is shown." };
    if (blank(to)) return { ...plain, said: "The second one is empty." };
    const kept = common(a, b);
    if (!kept) return { ...plain, said: "Too long to be compared word by word." };
    withoutChance(a, b, kept);
    const shared = counted(a.filter((word, place) => kept[0][place])), fewer = Math.min(counted(a), counted(b));
    if (fewer && shared < SOME * fewer) return { ...plain, said: "Hardly a word in common." };
    return { from: runs(a, kept[0]), to: runs(b, kept[1]), said: "" };
  };
})();

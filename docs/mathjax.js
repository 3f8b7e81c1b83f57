// Formulas of the notebooks, between dollars as Jupyter, Colab and GitHub read them.
window.MathJax = {
  tex: {inlineMath: [["$", "$"]], displayMath: [["$$", "$$"]]},
  options: {processHtmlClass: "jp-RenderedMarkdown|jp-MarkdownOutput", ignoreHtmlClass: "md-content"},
};

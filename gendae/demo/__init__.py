"""A page to play with: a trained model in the browser.

`weights` turns a model into numbers that the page reads, `page/` holds the page itself (plain
JavaScript modules, whose arithmetic is that of `layers`, `models` and `inference`), `bundle` puts
both together, and `server` shows the result to this machine alone.
"""

"""How does a width become an ONNX file? Templates, weight injection, passes, parity, manifest.

Per model and width the graph is traced once into a template without weights (`exporter.templates`).
Per round the sliced weights are put in by name (`exporter.injection`), the graph is optimised
(`exporter.passes`) and compared with torch (`exporter.parity`); `exporter.export` does these in
order. Importing this package, `exporter.errors`, `exporter.manifest` or `exporter.command` imports
neither torch nor onnx.
"""

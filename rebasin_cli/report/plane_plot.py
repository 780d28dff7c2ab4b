"""The plane through A, B and π(B) as PNG, SVG or PDF, through matplotlib (the extra `plot`)."""

from __future__ import annotations

from rebasin_cli.report.figures import loss_text
from rebasin_cli.report.measurements import PlaneRecord
from rebasin_cli.report.plane_levels import Levels
from rebasin_cli.report.png import Form, require_matplotlib, saved
from rebasin_cli.safe_text import LONGEST_NAME, one_line


def plane_picture(plane: PlaneRecord, form: Form) -> bytes:
    """The contour plot as the bytes of a file."""
    require_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 5.6), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    levels = Levels.of(plane)
    if levels is not None and levels.edges:
        bands = axes.contourf(plane.x, plane.y, plane.loss, levels.edges, cmap="viridis", extend="both")
        axes.contour(plane.x, plane.y, plane.loss, levels.edges, colors="white", linewidths=0.3)
        scale = figure.colorbar(bands, ax=axes, format=lambda value, _: loss_text(value))
        scale.set_label(f"loss, {one_line(plane.loss_unit, LONGEST_NAME)}", parse_math=False)
    corners = {name: plane.points[name] for name in ("A", "B", "π(B)") if name in plane.points}
    for name, style in (("B", "--"), ("π(B)", "-")):
        if "A" in corners and name in corners:
            ends = corners["A"], corners[name]
            axes.plot([end.x for end in ends], [end.y for end in ends], color="white", linestyle=style, linewidth=1.5)
    for name, point in corners.items():
        axes.plot(point.x, point.y, "o", color="white", markeredgecolor="black")
        right = point.x > (plane.x[0] + plane.x[-1]) / 2  # so that the text stays within the picture
        axes.annotate(
            f"{name}  {loss_text(point.loss)}", (point.x, point.y), xytext=(-6 if right else 6, 6),
            textcoords="offset points", ha="right" if right else "left",
            bbox={"boxstyle": "round,pad=0.2", "facecolor": "white", "alpha": 0.8, "edgecolor": "none"},
        )  # fmt: skip
    axes.set_aspect("equal")
    axes.set_xlabel("distance of weights, from A towards π(B)")
    axes.set_ylabel("towards B")
    return saved(figure, form)

"""Building blocks of the dashboards: panels, variables and links in one style."""

import json
from zlib import crc32

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, text, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models.common import (
    BigValueColorMode,
    BigValueTextMode,
    GraphGradientMode,
    GraphThresholdsStyleMode,
    LegendDisplayMode,
    LegendPlacement,
    StackingMode,
    TooltipDisplayMode,
    VisibilityMode,
)
from grafana_foundation_sdk.models.text import TextMode

UIDS = {
    "Service": "console-gateway-service",
    "Upstream and budget": "console-gateway-upstream",
    "Links": "console-gateway-links",
    "Security": "console-gateway-security",
    "Runbook": "console-gateway-runbook",
}
GREEN, YELLOW, RED = "green", "yellow", "red"
NO_MINIMUM = float("-inf")
"""Threshold of the first colour, instead of green."""
SOURCE = models.DataSourceRef(type_val="prometheus", uid="${datasource}")
_JOB = 'job=~"$job"'
_INSTANCE = f'{_JOB},instance=~"$instance"'
_WORDS = {
    "INSTANCE": _INSTANCE,
    "ACCOUNT": f'{_INSTANCE},account=~"$account"',
    "JOB": _JOB,
    "WINDOW": "$__rate_interval",
}
_ALL = ".+"
_EVENT_S = 60
"""An event stays in the result of its annotation's expression for so long."""
_TITLE_CHARS_PER_COLUMN = 5.5
"""What fits into a column of a dashboard that is 1440 pixels wide, beside the icon."""
OF_THE_GATEWAY = "on (job, instance) gateway_build_info{INSTANCE}"
"""After `and`: of the series that other programs export too, those of the gateway. `$job` may
select every job."""
FIRING = 'ALERTS{JOB,alertname=~"ConsoleGateway.*",alertstate="firing"}'

Query = tuple[str, str]
"""Expression and legend. JOB, INSTANCE (with the job), ACCOUNT (with both) and WINDOW are replaced
by the dashboard's variables."""
States = dict[float, str]
"""The word that is shown instead of a value, for example of a metric that is 0 or 1."""
Limit = tuple[float, str]
"""Lowest value, and the colour from it upwards."""


def graph(
    title: str,
    description: str,
    *queries: Query,
    unit: str,
    limits: tuple[Limit, ...] = (),
    stacked: bool = False,
    at_least: float | None = 0,
    states: States | None = None,
    width: int = 12,
) -> timeseries.Panel:
    panel = (
        timeseries.Panel()
        .title(title)
        .description(description)
        .datasource(SOURCE)
        .unit(unit)
        .span(width)
        .height(8)
        .line_width(1)
        .fill_opacity(30 if stacked else 8)
        .gradient_mode(GraphGradientMode.NONE)
        .show_points(VisibilityMode.NEVER)
        .span_nulls(False)
        .legend(
            common.VizLegendOptions()
            .display_mode(LegendDisplayMode.TABLE)
            .placement(LegendPlacement.BOTTOM)
            .show_legend(True)
            .calcs(["lastNotNull", "max"])
        )
        .tooltip(common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI))
        .thresholds(_thresholds(limits))
    )
    if limits:
        style = common.GraphThresholdsStyleConfig().mode(GraphThresholdsStyleMode.DASHED)
        panel = panel.thresholds_style(style)
    if stacked:
        panel = panel.stacking(common.StackingConfig().mode(StackingMode.NORMAL))
    if at_least is not None:
        panel = panel.min(at_least)
    if states:
        panel = panel.mappings(_mappings(states)).max(max(states)).decimals(0)
    for query in _queries(queries, exemplars=unit == "s"):
        panel = panel.with_target(query)
    return panel


def figure(
    title: str,
    description: str,
    *queries: Query,
    unit: str,
    limits: tuple[Limit, ...] = (),
    decimals: float | None = None,
    no_value: str = "",
    named: bool = False,
    states: States | None = None,
    width: int = 4,
) -> stat.Panel:
    """Show the latest value.

    `no_value` is shown when there is no value and that is normal. `named` shows the name of a
    series even if it is the only one.
    """
    panel = (
        stat.Panel()
        .title(title)
        .description(description)
        .datasource(SOURCE)
        .unit(unit)
        .span(width)
        .height(4)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]).values(False))
        .color_mode(BigValueColorMode.VALUE)
        .thresholds(_thresholds(limits))
    )
    if decimals is not None:
        panel = panel.decimals(decimals)
    if named:
        panel = panel.text_mode(BigValueTextMode.VALUE_AND_NAME)
    if no_value:
        panel = panel.no_value(no_value)
    if states:
        panel = panel.mappings(_mappings(states))
    if len(title) > _TITLE_CHARS_PER_COLUMN * width:
        raise ValueError(f"the title is cut off in {width} columns: {title}")
    for query in _queries(queries, exemplars=False):
        panel = panel.with_target(query)
    return panel


def percentiles(histogram: str, which: str, *, by: str = "") -> list[Query]:
    """Return queries for median, p95 and p99 of the series that `which` selects in a histogram."""
    labels, legend = (f"le, {by}", f" {{{{{by}}}}}") if by else ("le", "")
    rates = f"sum by ({labels}) (rate({histogram}_bucket{{{which}}}[WINDOW]))"
    return [
        (f"histogram_quantile({quantile}, {rates})", f"{name}{legend}")
        for quantile, name in ((0.5, "median"), (0.95, "p95"), (0.99, "p99"))
    ]


def words(title: str, content: str, *, height: int = 10) -> text.Panel:
    return (
        text.Panel().title(title).mode(TextMode.MARKDOWN).content(content).span(24).height(height)
    )


def to_runbook(alert: str) -> str:
    """Return a Markdown link to that section of the runbook.

    Grafana's sanitizer removes the IDs of headings, so an anchor does not work; a single panel can
    be shown instead. A link without a leading slash is relative to Grafana's root.
    """
    return f"[{alert}](d/{UIDS['Runbook']}?viewPanel=panel-{_panel_id(alert)})"


def page(title: str, description: str, *, accounts: bool) -> dashboard.Dashboard:
    """Start a dashboard with its variables and links to the others."""
    made = (
        dashboard.Dashboard(f"Console Gateway: {title}")
        .uid(UIDS[title])
        .description(description)
        .tags(["console-gateway"])
        .readonly()
        .tooltip(models.DashboardCursorSync.CROSSHAIR)
        .time("now-3h", "now")
        .refresh("30s")
        .timezone("browser")
    )
    account = _variable("account", "gateway_budget_rate_ceiling{INSTANCE}")
    if not accounts:  # hidden, not absent: links must pass the selection on
        account = account.hide(models.VariableHide.HIDE_VARIABLE)
    for variable in (
        dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus"),
        _variable("job", "gateway_build_info"),
        _variable("instance", "gateway_build_info{JOB}"),
        account,
    ):
        made = made.with_variable(variable)
    if title != "Runbook":
        for annotation in _ANNOTATIONS:
            made = made.annotation(annotation)
    for other, uid in UIDS.items():
        if other != title:
            made = made.link(
                dashboard.DashboardLink(other)
                .type(models.DashboardLinkType.LINK)
                .url(f"/d/{uid}")
                .icon("dashboard" if other != "Runbook" else "doc")
                .tooltip(f"{other}, with the same time range, instances and accounts")
                .keep_time(True)
                .include_vars(True)
            )
    return made


def to_json(made: dashboard.Dashboard) -> str:
    """Return the JSON that Grafana loads."""
    built = made.build()
    for panel in built.panels or []:
        panel.id_val = _panel_id(panel.title)
    return json.dumps(built, cls=JSONEncoder, indent=1, sort_keys=True) + "\n"


def _panel_id(title: str | None) -> int:
    """Derive the ID from the title: links stay valid when other panels change."""
    return crc32((title or "").encode()) % 1_000_000


def _with_variables(expression: str) -> str:
    for word, value in _WORDS.items():
        expression = expression.replace(word, value)
    return expression


class _Annotation(models.AnnotationQuery):
    """A Prometheus annotation; the SDK's model lacks the title and the step."""

    def __init__(self, name: str, colour: str, title: str, expression: str) -> None:
        super().__init__(
            name, SOURCE, enable=True, icon_color=colour, expr=_with_variables(expression)
        )
        self._title = title

    def build(self) -> models.AnnotationQuery:
        return self

    def to_json(self) -> dict[str, object]:
        return super().to_json() | {"titleFormat": self._title, "step": f"{_EVENT_S}s"}


_ANNOTATIONS = (
    _Annotation(
        "Deploys",
        "blue",
        "Version {{version}} started",
        "count by (version) (gateway_build_info{INSTANCE})"
        f" unless count by (version) (gateway_build_info{{INSTANCE}} offset {_EVENT_S}s)",
    ),
    _Annotation(
        "Process starts",
        "purple",
        "Processes started: a restart, or a changed config",
        f"count(time() - process_start_time_seconds{{INSTANCE}} < {_EVENT_S} and {OF_THE_GATEWAY})",
    ),
    _Annotation(
        "Policy reloads",
        "green",
        "Policy loaded",
        f"count(time() - gateway_policy_loaded_timestamp_seconds{{INSTANCE}} < {_EVENT_S}"
        " and on (job, instance) gateway_policy_loaded_timestamp_seconds{INSTANCE}"
        " - on (job, instance) process_start_time_seconds{INSTANCE} > 30)",
    ),
    _Annotation("Alerts", "red", "{{alertname}}", f"count by (alertname) ({FIRING})"),
)


def _variable(name: str, series: str) -> dashboard.QueryVariable:
    return (
        dashboard.QueryVariable(name)
        .label(name.title())
        .datasource(SOURCE)
        .query(f"label_values({_with_variables(series)}, {name})")
        .refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(models.VariableSort.ALPHABETICAL_ASC)
        .multi(True)
        .include_all(True)
        .all_value(_ALL)
        .current(models.VariableOption(text="All", value="$__all", selected=True))
    )


def _mappings(states: States) -> list[models.ValueMapping]:
    return [
        models.ValueMap(
            {
                f"{value:g}": models.ValueMappingResult(text=text, index=i)
                for i, (value, text) in enumerate(states.items())
            }
        )
    ]


def _thresholds(limits: tuple[Limit, ...]) -> dashboard.ThresholdsConfig:
    steps = [models.Threshold(value=None, color=GREEN)]
    if limits and limits[0][0] == NO_MINIMUM:
        steps, limits = [models.Threshold(value=None, color=limits[0][1])], limits[1:]
    steps += [models.Threshold(value=value, color=color) for value, color in limits]
    return dashboard.ThresholdsConfig().mode(models.ThresholdsMode.ABSOLUTE).steps(steps)


def _queries(queries: tuple[Query, ...], *, exemplars: bool) -> list[prometheus.Dataquery]:
    found = []
    for i, (expression, legend) in enumerate(queries):
        query = prometheus.Dataquery().datasource(SOURCE).legend_format(legend)
        query = query.expr(_with_variables(expression))
        query = query.ref_id(chr(ord("A") + i)).range()
        found.append(query.exemplar(True) if exemplars else query)
    return found

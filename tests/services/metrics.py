"""The metrics page taken apart by Prometheus' own parser."""

from collections.abc import Mapping

from prometheus_client.parser import text_string_to_metric_families

Sample = tuple[str, Mapping[str, str], float]


def samples_in(text: bytes) -> list[Sample]:
    """Name, labels and value of every sample, in the order of the page."""
    families = text_string_to_metric_families(text.decode())
    return [(sample.name, sample.labels, sample.value) for family in families for sample in family.samples]

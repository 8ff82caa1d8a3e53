"""Validates a crate by rocrate-validator, without a network: ``crate_validation.py CRATE``.

Run by a Python that has the package roc-validator. The two contexts that a crate names are answered
from here, with the terms that gpupool's crates use; every other address is refused.
"""

from __future__ import annotations

import email.message
import io
import json
import sys
import urllib.error
import urllib.request
from typing import Any

SCHEMA = (
    *("CreativeWork", "Dataset", "SoftwareSourceCode", "SoftwareApplication", "ComputerLanguage"),
    *("HowTo", "HowToStep", "CreateAction", "ControlAction", "OrganizeAction", "PropertyValue"),
    *("name", "description", "version", "license", "datePublished", "about", "hasPart", "step"),
    *("mainEntity", "mentions", "programmingLanguage", "identifier", "url", "softwareVersion"),
    *("instrument", "object", "result", "startTime", "endTime", "actionStatus", "value"),
    *("position", "workExample", "contentSize", "encodingFormat", "propertyID", "unitCode"),
    *("additionalProperty",),
)
TERMS = {
    **{term: f"http://schema.org/{term}" for term in SCHEMA},
    "File": "http://schema.org/MediaObject",
    "ComputationalWorkflow": "https://bioschemas.org/ComputationalWorkflow",
    "conformsTo": "http://purl.org/dc/terms/conformsTo",
}
WFRUN = "https://w3id.org/ro/terms/workflow-run"
CONTEXTS = {
    "https://w3id.org/ro/crate/1.1/context": TERMS,
    f"{WFRUN}/context": {term: f"{WFRUN}#{term}" for term in ("sha256", "resourceUsage")},
}
TEXTS = {url: json.dumps({"@context": terms}).encode() for url, terms in CONTEXTS.items()}


class Response(io.BytesIO):
    """What opening one of the addresses returns."""

    status = code = status_code = 200
    ok = True

    def __init__(self, url: str) -> None:
        if url not in TEXTS:
            raise urllib.error.URLError(f"a test has no network: {url}")
        super().__init__(TEXTS[url])
        self.url, self.content, self.text = url, TEXTS[url], TEXTS[url].decode()
        self.headers = email.message.Message()
        self.headers["Content-Type"] = "application/ld+json"

    def geturl(self) -> str:
        return self.url

    def info(self) -> email.message.Message:
        return self.headers

    def json(self) -> Any:
        return json.loads(self.text)

    def raise_for_status(self) -> None:
        pass


def opened(request: Any, *_: Any, **__: Any) -> Response:
    return Response(request if isinstance(request, str) else request.full_url)


def main(crate: str) -> int:
    import rdflib._networking
    from rocrate_validator import models, services
    from rocrate_validator.utils.http import HttpRequester

    urllib.request.urlopen = opened
    rdflib._networking.urlopen = opened
    HttpRequester.get = HttpRequester.head = lambda self, url, **_: Response(url)
    settings = services.ValidationSettings(
        rocrate_uri=crate,
        profile_identifier="provenance-run-crate",
        requirement_severity=models.Severity.REQUIRED,
    )
    result = services.validate(settings)
    for issue in result.get_issues():
        print(issue.check.identifier, issue.message)
    return 0 if result.passed() else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))

"""AWS's REST-JSON wire format for the Lambda API, derived from botocore's own service model.

``model`` compiles the service model, ``parse`` turns HTTP requests into input dicts, ``validate`` checks them with
AWS's wording, ``serialise`` turns output dicts into HTTP responses, ``errors`` owns :class:`~.errors.AwsError`,
``arn`` understands every form of a function's name. Nothing here does input or output, and nothing here knows what
an operation does.
"""

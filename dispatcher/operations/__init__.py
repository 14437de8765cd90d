"""The API's operations: one module per subject, each handler registered under AWS's name for it.

``services`` has the dispatcher's parts, ``call`` what a handler is and gets, ``registry`` which operation has which handler.
Operations without a handler answer 501.
"""
